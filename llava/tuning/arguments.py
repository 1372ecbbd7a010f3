"""Settings of fine-tuning: transformers' training arguments under the reference's flag names."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import HfArgumentParser, TrainingArguments

from egogen.cli import DEBUG_FLAG
from egogen.errors import UserError
from egogen.files import read_yaml
from egogen.shards import process
from llava.checkpoints.adapters import LoraArguments


@dataclass(frozen=True)
class ModelArguments:
    """Where the model starts from."""

    model_name_or_path: Path = field(metadata={"help": "checkpoint folder, published or Hugging Face format"})
    vision_tower: Path | None = field(default=None, metadata={"help": "CLIP folder, if not the one it names"})


@dataclass(frozen=True)
class DataArguments:
    """What it learns from."""

    data_path: Path = field(metadata={"help": "JSON list of LLaVA conversations"})
    image_folder: Path = field(metadata={"help": "folder that their images are relative to, or of tar files"})
    model_max_length: int = field(
        default=2048, metadata={"help": "tokens of a record that are kept, an image counted as one"}
    )
    on_bad_record: Literal["error", "skip"] = field(
        default="error", metadata={"help": "a record that cannot be learnt from"}
    )
    dry_run: bool = field(default=False, metadata={"help": "print the plan and end before training"})

    def __post_init__(self) -> None:
        if self.model_max_length < 2:
            raise UserError(f"--model_max_length {self.model_max_length}: expected 2 or more tokens")


@dataclass(frozen=True)
class ScheduleArguments:
    """The warm-up as the reference names it."""

    warmup_ratio: float = field(
        default=0.0, metadata={"help": "share of all updates in which the rate rises"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_ratio < 1:
            raise UserError(f"--warmup_ratio {self.warmup_ratio}: expected 0 or more, below 1")


@dataclass(frozen=True)
class FixedArguments:
    """Flags of the published scripts whose only value is LEGO's; any other value is refused."""

    version: str = field(default="llava_llama_2", metadata={"help": "conversation template"})
    mm_vision_select_layer: int = field(default=-2, metadata={"help": "CLIP's last layer but one"})
    mm_use_im_start_end: bool = field(default=False, metadata={"help": "marks around an image"})
    mm_use_im_patch_token: bool = field(default=False, metadata={"help": "a vocabulary entry for patches"})
    mm_projector_type: str = field(default="linear", metadata={"help": "the projector is the checkpoint's"})
    image_aspect_ratio: str = field(default="square", metadata={"help": "shortest edge and centre crop"})
    is_multimodal: bool = field(default=True, metadata={"help": "records may have images"})
    freeze_backbone: bool = field(default=False, metadata={"help": "the language model is trained"})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "not the projector alone"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "the projector is trained"})
    lazy_preprocess: bool = field(
        default=True, metadata={"help": "images are always read when they are needed"}
    )
    evaluation_strategy: str = field(default="no", metadata={"help": "there is no validation set"})

    def __post_init__(self) -> None:
        for name, known in type(self).__dataclass_fields__.items():
            if getattr(self, name) != known.default:
                raise UserError(f"--{name} {getattr(self, name)}: the only value here is {known.default}")


OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Arguments(NamedTuple):
    """All settings of a run."""

    model: ModelArguments
    data: DataArguments
    lora: LoraArguments
    training: TrainingArguments
    rank: int  # of this process, from 0
    processes: int

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(str(self.training.output_dir))


def read_arguments(argv: Sequence[str] | None, description: str | None) -> Arguments:
    """Reads `[FILE.yaml] [--flag value ...]`; flags win over the file.

    Raises:
        UserError: the file or a value cannot be used.
        SystemExit: an unknown flag, with code 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].endswith((".yaml", ".yml")):
        words = [*flags_of(Path(words[0])), *words[1:]]
    # `--debug` alone is ours (`egogen.cli.run`); transformers has an option of that name with a value.
    words = [word for word in words if word != DEBUG_FLAG]
    if "--deepspeed" in words[:-1]:
        config = Path(words[words.index("--deepspeed") + 1])
        if not config.is_file():
            raise UserError(f"--deepspeed {config}: no such file; configs/deepspeed/ holds some")
    ours = ModelArguments, DataArguments, LoraArguments, ScheduleArguments, FixedArguments
    parser = HfArgumentParser(
        [*ours, TrainingArguments],  # type: ignore[list-item]
        prog="python -m llava.train",
        description=description,
        allow_abbrev=False,
    )
    # One mean over a process's batch, then one over the processes (published).
    parser.set_defaults(
        report_to="tensorboard", remove_unused_columns=False, average_tokens_across_devices=False
    )
    try:
        known, _ = parser.parse_known_args(words)
        read = read_plan if known.dry_run else HfArgumentParser.parse_args_into_dataclasses
        model, data, lora, schedule, _, training = read(parser, words)
    except UserError:
        raise
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"python -m llava.train: {error}") from None
    if training.save_total_limit == 1:
        raise UserError(
            "--save_total_limit 1: the last checkpoint goes before the new one is whole; use 2 or more"
        )
    if schedule.warmup_ratio:
        training.warmup_steps = schedule.warmup_ratio
    mine = (
        (process().rank, process().world_size)
        if data.dry_run
        else (training.process_index, training.world_size)
    )
    return Arguments(model, data, lora, training, *mine)


def read_plan(parser: HfArgumentParser, words: list[str]) -> tuple[Any, ...]:
    """Reads the flags of a run that is only planned, on any machine; no process waits for another.

    What needs a GPU, DeepSpeed or other processes is not begun, but stays what the flags say.
    """
    known, unknown = parser.parse_known_args(words)
    if unknown:
        raise ValueError(f"unknown flags: {' '.join(unknown)}")
    values = vars(known)
    later = {name: values.pop(name) for name in ("deepspeed", "tf32", "fp16", "bf16", "use_cpu")}
    kept = {name: os.environ.pop(name) for name in OF_LAUNCHERS if name in os.environ}
    try:
        read = parser.parse_dict({**values, "use_cpu": True})
    finally:
        os.environ.update(kept)
    for name, value in later.items():
        setattr(read[-1], name, value)
    return read


def flags_of(path: Path) -> list[str]:
    """A YAML file's keys and values as flags.

    Raises:
        UserError: it is missing or not an object of plain values.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict) or any(isinstance(value, (dict, list)) for value in raw.values()):
        raise UserError(f"{path}: expected keys with plain values, such as learning_rate: 2e-5")
    return [word for key, value in raw.items() if value is not None for word in (f"--{key}", str(value))]
