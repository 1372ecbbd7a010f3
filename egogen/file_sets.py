"""Files of a library that writes several by itself: whole, in a folder that others are in already."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egogen.files import finish, part_of, sync

FILES = "files"  # in the hidden folder's name


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Makes a hidden folder within `folder` to fill; when the block ends well, its files move up, each whole.

    Who calls this is the only one to write there, so that what a killed one has left goes, also of another
    machine, whose processes nobody here can ask for.

    Raises:
        OSError: the disk is full, or read-only.
    """
    for left in folder.glob(f".{FILES}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = part_of(folder / FILES)
    part.mkdir(parents=True)
    try:
        yield part
        finish(part)
        for found in sorted(part.iterdir()):
            found.replace(folder / found.name)
        sync(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
