"""Walks through folders that follow links, in order, and come to an end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from egogen.errors import UserError, reason

log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """A folder on a walk, and the names in it in order; links count as what they lead to."""

    folder: Path
    folders: list[str]
    files: list[str]
    lost: list[str]  # links that lead to nothing


def walk(folder: Path, tolerant: bool = False) -> Iterator[Listing]:
    """Goes through a folder and all below it, top down and in order; follows links to folders.

    A link that leads back to a folder it lies in is not followed again. Whoever iterates may take names out
    of `folders`, which are then passed over. No folder, no listing.

    Args:
        folder: where to begin.
        tolerant: a folder that cannot be listed gets a warning.

    Raises:
        UserError: a folder cannot be listed.
    """
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        here, above = pending.pop()
        try:
            facts = here.stat()
            with os.scandir(here) as entries:
                found = sorted((entry.name, kind_of(entry)) for entry in entries)
        except FileNotFoundError:  # gone meanwhile
            continue
        except OSError as error:
            told = UserError(f"{here}: cannot be listed ({reason(error)})")
            if not tolerant:
                raise told from None
            log.warning("%s; what is in it is left out", told)
            continue
        if (mark := (facts.st_dev, facts.st_ino)) in above:
            continue
        names = {kind: [name for name, its in found if its == kind] for kind in ("folder", "file", "lost")}
        listing = Listing(here, names["folder"], names["file"], names["lost"])
        yield listing
        pending += [(here / name, above | {mark}) for name in reversed(listing.folders)]


def kind_of(entry: os.DirEntry[str]) -> str:
    """What a name in a folder stands for: `folder`, `file`, `lost` (a link to nothing) or `other`."""
    try:
        if entry.is_dir() or entry.is_file():
            return "folder" if entry.is_dir() else "file"
        return "lost" if entry.is_symlink() and not Path(entry.path).exists() else "other"
    except OSError:  # a link to itself, or into a folder that may not be entered
        return "lost"


def walk_names(folder: Path) -> Iterator[str]:
    """The names of all files below a folder, with `/`, those behind links to folders included (`walk`).

    Raises:
        UserError: as `walk_files`.
    """
    root = f"{folder}/"
    for listing in walk(folder):
        check_lost(listing)
        place = f"{listing.folder}/".removeprefix(root)
        for name in listing.files:
            yield f"{place}{name}"


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is one that listings leave out."""
    return name.startswith(".") or "/." in name


def shown(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without those whose names begin with a dot: a shell's `*` leaves them out as well.

    On disks of other systems macOS puts a `._x.tar` beside each `x.tar`, which is none.
    """
    return sorted(path for path in paths if not path.name.startswith("."))


def check_lost(listing: Listing) -> None:
    """Raises a `UserError` if a link, no hidden one, leads to nothing: what it is for would be left out."""
    if broken := next((listing.folder / name for name in listing.lost if not name.startswith(".")), None):
        raise UserError(
            f"{broken}: is a link to {broken.readlink()}, which is not there; mend the link or remove it"
        )


def walk_files(folder: Path, *patterns: str) -> list[Path]:
    """All files below a folder, in the order of their paths, those behind links to folders included (`walk`).

    Args:
        folder: where to look; may be absent.
        patterns: for names, such as `*.npy`, which no hidden name fits; by default every file.

    Raises:
        UserError: a folder cannot be listed, or a link, no hidden one, leads to nothing: what it stood for
            would be left out without a word.
    """
    found = []
    for listing in walk(folder):
        check_lost(listing)
        names = (
            name
            for name in listing.files
            if not patterns or (name[0] != "." and any(fnmatchcase(name, each) for each in patterns))
        )
        found += [listing.folder / name for name in names]
    return sorted(found)
