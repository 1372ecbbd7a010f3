"""A DeepSpeed checkpoint for another number of processes: its optimiser's shards put together by parameter.

The form is DeepSpeed's own ("universal checkpoint"). It takes as much room as the checkpoint, in a folder of
its own beside it, and is deleted once all processes have read it.
"""

from __future__ import annotations

import logging
import re
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from egogen.annotations import check_object
from egogen.errors import UserError, check
from egogen.files import read_json
from llava.checkpoints.resume import COMPLETE, TAG

log = logging.getLogger(__name__)
PLACE = ".resharded"  # in the run's folder
MOST_PROCESSES = 100_000
SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")


def other_writers(checkpoint: Path, processes: int) -> int | None:
    """How many processes wrote the optimiser's shards of a checkpoint, if not as many as there are now.

    Returns:
        None if the checkpoint can be read as it is: of as many processes, or without shards.

    Raises:
        UserError: not all shards are here; names those that are missing.
    """
    tag = checkpoint / TAG
    if not tag.exists():
        return None
    folder = checkpoint / tag.read_text(encoding="utf-8").strip()
    found = {int(match[1]) for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    complete = check_object(read_json(checkpoint / COMPLETE), f"{checkpoint / COMPLETE}", "facts by name")
    # Where a run of 0.1.0 wrote it, nobody said.
    count = complete.get("processes", max(found, default=0) + 1)
    good = type(count) is int and 1 <= count <= MOST_PROCESSES
    check(f"{checkpoint / COMPLETE}: processes", count, f"1 to {MOST_PROCESSES}", good)
    if not found or count == processes:
        return None
    if missing := sorted({*range(count)} - found):
        raise UserError(
            f"{folder}: of {count} processes the shards of {', '.join(map(str, missing))} are not here, "
            "and another number of processes needs all; copy them from the machines that wrote them "
            "(all machines are to share --output_dir), or train with as many processes as before"
        )
    return int(count)


def reshard(checkpoint: Path) -> Path:
    """Writes what any number of processes can go on from; the checkpoint itself stays as it is.

    Returns:
        A folder that stands for the checkpoint, with its step and schedule. `clear` deletes it.
    """
    from deepspeed.checkpoint import ds_to_universal

    clear(checkpoint.parent)
    made = checkpoint.parent / PLACE / checkpoint.name
    made.mkdir(parents=True)
    for file in checkpoint.iterdir():
        # Of random draws each process had a state of its own.
        if file.is_file() and file.name != TAG and not file.match("rng_state*"):
            shutil.copyfile(file, made / file.name)
    states = (checkpoint / TAG).read_text(encoding="utf-8").strip()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        ds_to_universal.main(
            Namespace(
                input_folder=f"{checkpoint / states}",
                output_folder=f"{made / states}",
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # of models whose tensors are shared out; ours are not
            )
        )
    return made


def clear(run: Path) -> None:
    """Deletes what `reshard` has written, and what of it a process that was killed has left."""
    shutil.rmtree(run / PLACE, ignore_errors=True)
