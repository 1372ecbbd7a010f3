"""What ended runs left unfinished in trees of a million folders: a walk through all of it takes long.

It is removed beside what is about to be made, which is where a killed process leaves it, and looked for
everywhere once a day: what another machine left is taken for living as long.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from egogen.files import ABANDONED, clean_parts

# Unfinished files of `egogen.files.atomic_open` in one folder; others that end so are somebody's own.
PARTS = ".*.part"
MARK = "swept"


def clean_near(folder: Path) -> None:
    """Removes them in a folder and in the folders in it, no deeper."""
    for pattern in (PARTS, f"*/{PARTS}"):
        clean_parts(folder, pattern)


class Neighbours:
    """Removes what ended runs left in the folders that a process writes in, before it does."""

    def __init__(self) -> None:
        self.last: Path | None = None

    def clean(self, folder: Path) -> None:
        """Looks into a folder, once for all that is written in it in a row."""
        if folder != self.last:
            clean_parts(folder, PARTS)
            self.last = folder


def sweep(folders: Iterable[Path], notes: Path) -> None:
    """Removes what ended runs left anywhere below some folders, unless a process looked within a day.

    Args:
        folders: where to look.
        notes: the folder in which a file's time says when that was; without it nothing was made.
    """
    mark = notes / MARK
    with suppress(OSError):  # a disk that is full or read-only by now: nothing is lost
        if not notes.is_dir() or (mark.exists() and 0 <= time.time() - mark.stat().st_mtime < ABANDONED):
            return
        mark.touch()
        for folder in folders:
            clean_parts(folder)
