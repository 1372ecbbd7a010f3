"""Finds the videos or frame folders of a data set below a folder, whatever folders lie between."""

from __future__ import annotations

import re
from pathlib import Path

from egogen.errors import UserError
from egogen.walks import walk

# As cameras and older programs name them: beside a usual one, they are what that was made from.
RARE = (
    ".m4v", ".3gp", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".ogv", ".mxf", ".dv",
)  # fmt: skip
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", *RARE)
# EPIC-KITCHENS has a participant and a kind between its root and a video, and train or val before them.
DEPTH = 4


def find_sources(
    root: Path, suffixes: tuple[str, ...], folders: re.Pattern[str] | None = None
) -> dict[str, Path]:
    """Files with a suffix by their name without it, and folders of certain names, which nobody looks into.

    Of several sources of one name the first in order counts, one of a rare suffix after all others.

    Raises:
        UserError: the root is no folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: {'is a file, expected a folder' if root.exists() else 'no such folder'}")
    found: dict[str, Path] = {}
    spare: dict[str, Path] = {}
    for here, inner, files, _ in walk(root, tolerant=True):
        for name in files:
            path = here / name
            if (suffix := path.suffix.lower()) in suffixes:
                (spare if suffix in RARE else found).setdefault(path.stem, path)
        if folders is not None:
            sources = [name for name in inner if folders.fullmatch(name)]
            inner[:] = [name for name in inner if name not in sources]
            for name in sources:
                found.setdefault(name, here / name)
        if len(here.relative_to(root).parts) >= DEPTH:
            inner.clear()
    return spare | found
