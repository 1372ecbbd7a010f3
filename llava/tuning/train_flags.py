"""Our own flags of fine-tuning, and those of the published scripts that have one value; no torch."""

from __future__ import annotations

import ast
import difflib
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from egogen import cli
from egogen.cli import OWN_FLAGS
from egogen.errors import UserError, shorten
from egogen.layout import expanded
from egogen.shipped import find_config
from llava.checkpoints.lora_arguments import LoraArguments
from llava.tuning.number_ranges import check_number

PROG = "python -m llava.train"
HELP_ALL = "--help-all"
NUMBERS: dict[str, type[int] | type[float]] = {"int": int, "float": float}  # by a field's type


def at_home(arguments: object, *names: str) -> None:
    """Expands `~` in the paths of frozen arguments."""
    for name in names:
        if (path := getattr(arguments, name)) is not None:
            object.__setattr__(arguments, name, expanded(path))


@dataclass(frozen=True)
class ModelArguments:
    """Where the model starts from."""

    model_name_or_path: Path = field(metadata={"help": "checkpoint folder, published or Hugging Face format"})
    vision_tower: Path | None = field(default=None, metadata={"help": "CLIP folder, if not the one it names"})

    def __post_init__(self) -> None:
        at_home(self, "model_name_or_path", "vision_tower")


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
        at_home(self, "data_path", "image_folder")
        if not 2 <= self.model_max_length <= 2**31:
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


OURS = ModelArguments, DataArguments, LoraArguments, ScheduleArguments, FixedArguments
EPILOG = (
    "Every flag of transformers.TrainingArguments is taken as well, such as --output_dir (needed), "
    "--deepspeed, --bf16, --num_train_epochs, --learning_rate, --per_device_train_batch_size, "
    "--gradient_accumulation_steps, --save_steps, --save_total_limit and --seed; "
    f"{HELP_ALL} lists them all. A first word FILE.yaml holds flags, which the command line's overrule."
)


def check_ours(argv: Sequence[str] | None, description: str | None) -> None:
    """Looks at our own flags alone: shows their help, and ends with code 2 where one is wrong or missing."""
    made = cli.parser(PROG, description)
    made.epilog, made.allow_abbrev = EPILOG, False
    made.add_argument(HELP_ALL, action="store_true", help="show transformers' flags too, and exit")
    for kind in OURS:
        hints = get_type_hints(kind)
        for each in fields(kind):
            names = dict.fromkeys((f"--{each.name}", f"--{each.name.replace('_', '-')}"))
            how = as_flag(hints[each.name], each.default)
            made.add_argument(*names, help=each.metadata["help"], **how)
    words = read_words(argv)
    if HELP_ALL not in words:
        known, others = made.parse_known_args(words)
        for kind in OURS:
            kind(**{each.name: getattr(known, each.name) for each in fields(kind)})
        check_others(made, others)
        check_together(known, words)


def check_together(known: Namespace, words: Sequence[str]) -> None:
    """Refuses flags that others leave without effect.

    Raises:
        UserError: names both.
    """
    given = {word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")}
    for name in ("lora_r", "lora_alpha", "lora_dropout"):
        if name in given and not known.lora_enable:
            raise UserError(f"--{name}: not used without --lora_enable True")
    if known.warmup_ratio and "warmup_steps" in given:
        raise UserError(
            "--warmup_ratio, --warmup_steps: both say how long the rate rises; give one of them "
            "(--warmup_ratio 0 sets that of a YAML file aside)"
        )


def check_others(made: ArgumentParser, words: Sequence[str]) -> None:
    """Ends with code 2 where a flag is not transformers' either, or its value no number that it takes."""
    types = trainer_types()
    for word, behind in zip(words, [*words[1:], ""], strict=True):
        spelled, joined, value = word.partition("=")
        name = spelled[2:].replace("-", "_")
        if not types or not spelled.startswith("--"):
            continue
        if name not in types and name.removeprefix("no_") not in types:
            near = difflib.get_close_matches(name, types, n=1)
            made.error(f"unrecognized arguments: {spelled}{f'; did you mean --{near[0]}?' if near else ''}")
        read, text = NUMBERS.get(types.get(name, "")), value if joined else behind
        if read:
            try:
                number = read(text)
            except ValueError:
                made.error(f"argument {spelled}: invalid {read.__name__} value: {shorten(text)}")
            check_number(name, number)


def trainer_types() -> dict[str, str]:
    """Flags of transformers' trainer and their types; empty where it is not installed.

    They are read from its source, since importing it imports torch, which takes seconds.
    """
    spec = find_spec("transformers")
    places = spec.submodule_search_locations if spec else None
    if not places:
        return {}
    tree = ast.parse((Path(places[0]) / "training_args.py").read_text(encoding="utf-8"))
    return {
        ast.unparse(each.target): ast.unparse(each.annotation)
        for kind in tree.body
        if isinstance(kind, ast.ClassDef) and kind.name == "TrainingArguments"
        for each in kind.body
        if isinstance(each, ast.AnnAssign)
    }


def as_flag(hint: Any, default: object) -> dict[str, Any]:  # noqa: ANN401 - a type of any kind
    """What `add_argument` takes for a field, as transformers' parser reads it."""
    shown = {"required": True} if default is MISSING else {"default": default}
    if hint is bool:
        return {**shown, "type": truth, "nargs": "?", "const": True, "metavar": "True|False"}
    kinds = [kind for kind in get_args(hint) or [hint] if kind is not type(None)]
    if isinstance(kinds[0], str):
        return {**shown, "choices": kinds}
    return {**shown, "type": kinds[0]}


def truth(text: str) -> bool:
    """Reads true or false in the words that transformers' parser takes."""
    words = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    words |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if text.lower() not in words:
        raise ArgumentTypeError(f"found {text!r}, expected True or False")
    return words[text.lower()]


def read_words(argv: Sequence[str] | None) -> list[str]:
    """The flags of `[FILE.yaml] [--flag value ...]`, those of the file first.

    Raises:
        UserError: the file cannot be used, or the DeepSpeed configuration is not there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].endswith((".yaml", ".yml")):
        words = [*flags_of(find_config(expanded(words[0]))), *words[1:]]
    # These are read by `egogen.cli.run`; transformers has another option of the name --debug, with a value.
    words = [word for word in words if word not in OWN_FLAGS]
    if "--deepspeed" in words[:-1]:
        place = words.index("--deepspeed") + 1
        config = find_config(expanded(words[place]))
        words[place] = f"{config}"
        if not config.is_file():
            raise UserError(f"--deepspeed {config}: no such file; configs/deepspeed/ holds some")
    return words


def flags_of(path: Path) -> list[str]:
    """A YAML file's keys and values as flags.

    Raises:
        UserError: it is missing or not an object of plain values.
    """
    from egogen.files import read_yaml

    raw = read_yaml(path)
    if not isinstance(raw, dict) or any(isinstance(value, (dict, list)) for value in raw.values()):
        raise UserError(f"{path}: expected keys with plain values, such as learning_rate: 2e-5")
    return [word for key, value in raw.items() if value is not None for word in (f"--{key}", str(value))]
