"""Room on a disk: asked for before something large is written, and told in units that people read."""

from __future__ import annotations

import shutil
from pathlib import Path

from egogen.errors import UserError

# What a disk should keep free besides.
SPARE_BYTES = 64 * 2**20
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def readable(size: int) -> str:
    """A number of bytes in decimal units: `7.8 GB`."""
    if size < 1000:
        return f"{size} B"
    value, unit = float(size), 0
    while value >= 999.95 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}"


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
