"""How long frames took: `timing.jsonl` in their folder, a line for each time that some were drawn."""

from __future__ import annotations

import json
import os
from pathlib import Path

from egogen.errors import UserError, reason

NAME = "timing.jsonl"


def note_time(folder: Path, frames: int, seconds: float, device: str) -> None:
    """Adds what one process drew, loading and the reading of checkpoints apart; several may add at once."""
    line = {"frames": frames, "seconds": round(seconds, 4), "device": device}
    with (folder / NAME).open("ab") as file:
        file.write(f"{json.dumps(line)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def frames_per_second(folder: Path) -> float | None:
    """Frames a second of one process, over all that was drawn; None where nobody put it down.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        frames, seconds = (sum(float(line[name]) for line in lines) for name in ("frames", "seconds"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); delete it: no frame depends on it"
        ) from None
    return frames / seconds if seconds > 0 else None
