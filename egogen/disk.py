"""Room on a disk: asked for before something large is written, and told in units that people read."""

from __future__ import annotations

import shutil
from pathlib import Path

from egogen.errors import UserError

# What a disk should keep free besides.
SPARE_BYTES = 64 * 2**20
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def readable(size: float) -> str:
    """A number of bytes in decimal units: `7.8 GB`."""
    for unit in UNITS:
        if size < 999.5 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def require_space(folder: Path, needed: int, what: str) -> None:
    """Sees to it that `needed` more bytes fit on the disk of a folder, which need not exist yet.

    Raises:
        UserError: they do not fit; names both sizes.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + SPARE_BYTES > free:
        raise UserError(
            f"{folder}: {what} needs {readable(needed)}, the disk has {readable(free)} free; "
            "free some room or choose a folder on another disk"
        )
