"""Settings of fine-tuning: transformers' training arguments under the reference's flag names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import HfArgumentParser, TrainingArguments

from egogen.errors import UserError
from llava.checkpoints.lora_arguments import LoraArguments
from llava.tuning.limits import check_processes, check_training
from llava.tuning.train_flags import HELP_ALL, OURS, PROG, DataArguments, ModelArguments, read_words


class Arguments(NamedTuple):
    """All settings of a run."""

    model: ModelArguments
    data: DataArguments
    lora: LoraArguments
    training: TrainingArguments

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
    words = ["--help" if word == HELP_ALL else word for word in read_words(argv)]
    parser = HfArgumentParser(
        [*OURS, TrainingArguments],  # type: ignore[list-item]
        prog=PROG,
        description=description,
        allow_abbrev=False,
    )
    # One mean over a process's batch, then one over the processes (published).
    parser.set_defaults(
        report_to="tensorboard", remove_unused_columns=False, average_tokens_across_devices=False
    )
    try:
        model, data, lora, schedule, _, training = parser.parse_args_into_dataclasses(words)
    except UserError:
        raise
    except (ValueError, ImportError, OSError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{PROG}: {f'{error}'[:500]}") from None
    if training.save_total_limit == 1:
        raise UserError(
            "--save_total_limit 1: the last checkpoint goes before the new one is whole; use 2 or more"
        )
    check_training(training)
    if not data.dry_run:
        check_processes(training)
    if schedule.warmup_ratio:
        training.warmup_steps = schedule.warmup_ratio
    return Arguments(model, data, lora, training)
