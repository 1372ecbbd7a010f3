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

from egogen.errors import UserError
from egogen.files import read_json
from llava.checkpoints.resume import COMPLETE, TAG

log = logging.getLogger(__name__)
PLACE = ".resharded"  # in the run's folder
SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")


def writers(checkpoint: Path) -> int | None:
    """How many processes have written the optimiser's shards of a checkpoint; None if it has none.

    Raises:
        UserError: not all shards are here; names those that are missing.
    """
    tag = checkpoint / TAG
    if not tag.exists():
        return None
    folder = checkpoint / tag.read_text(encoding="utf-8").strip()
    found = {int(match[1]) for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    said = read_json(checkpoint / COMPLETE).get("processes")  # where a run of 0.1.0 wrote it, nobody said
    count: int = said or max(found, default=-1) + 1
    if missing := sorted({*range(count)} - found):
        raise UserError(
            f"{folder}: of {count} processes the shards of {', '.join(map(str, missing))} are not here, "
            "and another number of processes needs all; copy them from the machines that wrote them "
            "(all machines are to share --output_dir), or train with as many processes as before"
        )
    return count or None


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
