"""Settings of fine-tuning: transformers' training arguments under the reference's flag names."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import distributed_c10d
from transformers import HfArgumentParser, TrainingArguments

from egogen.errors import UserError
from egogen.shards import process
from llava.checkpoints.lora_arguments import LoraArguments
from llava.tuning.limits import check_gathering, check_processes, check_training
from llava.tuning.train_flags import HELP_ALL, OURS, PROG, DataArguments, ModelArguments, read_words

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
        known, _ = parser.parse_known_args(words)
        wait_at_most(known.ddp_timeout)
        if known.deepspeed and not known.dry_run:
            be_a_group()
        read = read_plan if known.dry_run else HfArgumentParser.parse_args_into_dataclasses
        model, data, lora, schedule, _, training = read(parser, words)
    except UserError:
        raise
    except (ValueError, ImportError, OSError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{PROG}: {f'{error}'[:500]}") from None
    if training.save_total_limit == 1:
        raise UserError(
            "--save_total_limit 1: the last checkpoint goes before the new one is whole; use 2 or more"
        )
    check_training(training)
    check_gathering(training)
    if not data.dry_run:
        check_processes(training)
    if schedule.warmup_ratio:
        training.warmup_steps = schedule.warmup_ratio
    if data.dry_run:
        return Arguments(model, data, lora, training, process().rank, process().world_size)
    return Arguments(model, data, lora, training, training.process_index, training.world_size)


def wait_at_most(seconds: int) -> None:
    """Makes `--ddp_timeout` count for every group of processes.

    Transformers passes it to one of them, on GPUs alone; DeepSpeed's own have torch's default.
    """
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(distributed_c10d, name, timedelta(seconds=seconds))


def be_a_group() -> None:
    """Lets DeepSpeed have a group of one process where no launcher has told of others; it would ask MPI."""
    if not any(name in os.environ for name in OF_LAUNCHERS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            alone = ("0", "1", "0", "127.0.0.1", f"{free.getsockname()[1]}")
        os.environ.update(zip(OF_LAUNCHERS, alone, strict=True))


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
