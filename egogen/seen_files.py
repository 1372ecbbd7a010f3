"""Which files were found whole before: a line each with size and time; a restart reads none of them again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from egogen.distinct import among
from egogen.errors import UserError, reason
from egogen.files import regular

NO_MARKS = np.empty(0, np.int64)
log = logging.getLogger(__name__)
WAITING = 64  # names that are not written yet, at most


class SeenFiles:
    """Files below a root that are as they were when they were last written or looked at.

    Journals of JSON lines `[name, bytes, nanoseconds]`, a file for each part of the work; in memory a line
    takes 8 bytes. One that is lost or damaged costs a look at its file and no more, so nothing waits for the
    disk. Of several lines of a name each counts: they are of one file, at times when it was whole.

    Args:
        folder: of the journals; need not exist.
        root: what names are relative to.
        part: whose journal the lines of this process go to.
    """

    def __init__(self, folder: Path, root: Path, part: str = "") -> None:
        self.journal, self.root = folder / f"{part or 'all'}.jsonl", f"{root}/"
        self.waiting: list[str] = []
        self.known = np.sort(np.concatenate([NO_MARKS, *map(marks_of, folder.glob("*.jsonl"))]))

    def unchanged(self, names: Sequence[str]) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Which files are there, and which of them need no further look."""
        marks = np.fromiter(self.marks(names), np.int64, len(names))
        there = marks != 0
        return there, there & among(marks, self.known)

    def marks(self, names: Iterable[str]) -> Iterator[int]:
        """What tells each file, as it is, from all others; 0 of one that is not there."""
        root, stat = self.root, os.stat  # a path object would take longer than the look
        for name in names:
            try:
                facts = stat(root + name)
            except OSError:
                yield 0
            else:
                yield hash(line_of(name, facts)) or 1

    def note(self, name: str) -> None:
        """Says that a file is whole."""
        self.waiting.append(name)
        if len(self.waiting) >= WAITING:
            self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        names, self.waiting = self.waiting, []
        if not names:
            return
        try:
            lines = [line_of(name, os.stat(self.root + name)) for name in names]  # noqa: PTH116 - as in `marks`
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("ab") as file:  # a killed run may have left a line without its end
                file.write(b"\n" + b"".join(lines))
        except OSError as error:  # a full disk: nothing is lost but time
            log.warning("%s: not written (%s); the next start reads these files", self.journal, reason(error))


def line_of(name: str, facts: os.stat_result) -> bytes:
    """A journal's line."""
    return f"[{quoted(name)}, {facts.st_size}, {facts.st_mtime_ns}]\n".encode()


def marks_of(path: Path) -> Int64[np.ndarray, " n"]:
    """The marks of a journal's lines; none of one that cannot be read."""
    try:
        facts = regular(path).stat()
        return read(path, facts.st_size, facts.st_mtime_ns)
    except (OSError, UserError) as error:
        why = reason(error).removeprefix(f"{path}: ")
        log.warning("%s: not read (%s); the files that it names are read", path, why)
        return NO_MARKS


@cache  # a process that takes shard after shard looks at all journals before each
def read(path: Path, size: int, nanoseconds: int) -> Int64[np.ndarray, " n"]:  # noqa: ARG001 - say when anew
    """The same of a journal of that size and time: a line is compared as it stands, and never parsed."""
    with path.open("rb") as file:
        return np.fromiter(map(hash, file), np.int64)
