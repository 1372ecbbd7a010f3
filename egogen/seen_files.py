"""Which files were found whole before: a line each with size and time; a restart reads none of them again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from egogen.errors import UserError, reason
from egogen.files import no_garbage, regular

BLOCK = 1 << 22  # bytes of a journal read at a time
ROW = (str, int, int)
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
        self.known = np.concatenate([np.empty(0, np.int64), *map(marks_of, folder.glob("*.jsonl"))])

    def unchanged(self, names: Sequence[str]) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Which files are there, and which of them need no further look."""
        marks = np.fromiter(map(self.mark, names), np.int64, len(names))
        there = marks != 0
        return there, there & np.isin(marks, self.known, kind="sort")

    def mark(self, name: str) -> int:
        """What tells a file, as it is, from all others; 0 if it is not there."""
        try:
            facts = os.stat(self.root + name)  # noqa: PTH116 - a path object would take longer than the look
        except OSError:
            return 0
        return hash((name, facts.st_size, facts.st_mtime_ns)) or 1

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
            facts = [(name, os.stat(self.root + name)) for name in names]  # noqa: PTH116 - as above
            rows = [json.dumps([name, its.st_size, its.st_mtime_ns]) for name, its in facts]
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("ab") as file:  # a killed run may have left a line without its end
                file.write(("\n" + "\n".join(rows) + "\n").encode())
        except OSError as error:  # a full disk: nothing is lost but time
            log.warning("%s: not written (%s); the next start reads these files", self.journal, reason(error))


def marks_of(path: Path) -> Int64[np.ndarray, " n"]:
    """The marks of a journal's lines (`SeenFiles.mark`); none of one that cannot be read."""
    try:
        facts = regular(path).stat()
        return read(path, facts.st_size, facts.st_mtime_ns)
    except (OSError, UserError) as error:
        why = reason(error).removeprefix(f"{path}: ")
        log.warning("%s: not read (%s); the files that it names are read", path, why)
        return np.empty(0, np.int64)


@cache  # a process that takes shard after shard looks at all journals before each
def read(path: Path, size: int, nanoseconds: int) -> Int64[np.ndarray, " n"]:  # noqa: ARG001 - say when anew
    """The same of a journal of that size and time."""
    with no_garbage():
        return np.fromiter((hash(tuple(row)) or 1 for row in rows_of(path)), np.int64)


def rows_of(path: Path) -> Iterator[list[Any]]:
    """The whole lines of a journal."""
    with path.open("rb") as file:
        while block := file.readlines(BLOCK):
            yield from parse([line for line in block if line.strip()])


def parse(block: list[bytes]) -> list[list[Any]]:
    """The rows of lines, without the damaged ones."""
    try:
        rows = json.loads(b"[" + b",".join(block) + b"]")
    except (ValueError, RecursionError):
        return [] if len(block) < 2 else [*parse(block[: len(block) // 2]), *parse(block[len(block) // 2 :])]
    return [row for row in rows if type(row) is list and len(row) == 3 and tuple(map(type, row)) == ROW]
