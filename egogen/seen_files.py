"""Which files were found whole before: a line each with size and time; a restart reads none of them again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from egogen.errors import reason
from egogen.files import no_garbage

BLOCK = 1 << 22  # bytes of a journal read at a time
ROW = (str, int, int)
log = logging.getLogger(__name__)
WAITING = 64  # names that are not written yet, at most


class SeenFiles:
    """Files below a root that are as they were when they were last written or looked at.

    Journals of JSON lines `[name, bytes, nanoseconds]`, a file for each part of the work; in memory a line
    takes 16 bytes. A line that is lost or damaged costs a look at its file and no more, so nothing waits for
    the disk.

    Args:
        folder: of the journals; need not exist.
        root: what names are relative to.
        part: whose journal the lines of this process go to.
    """

    def __init__(self, folder: Path, root: Path, part: str = "") -> None:
        self.journal, self.root = folder / f"{part or 'all'}.jsonl", f"{root}/"
        self.waiting: list[str] = []
        with no_garbage():
            rows = [np.empty((0, 2), np.int64), *(marks(path) for path in sorted(folder.glob("*.jsonl")))]
        found = np.concatenate(rows)[::-1]  # of several lines of one name the last counts
        self.names, first = np.unique(found[:, 0], return_index=True)
        self.states = found[first, 1]

    def unchanged(self, names: Sequence[str]) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Which files are there, and which of them need no further look."""
        states = np.fromiter(map(self.state, names), np.int64, len(names))
        there = states != 0
        if not len(self.names):
            return there, np.zeros(len(names), bool)
        keys = np.fromiter(map(hash, names), np.int64, len(names))
        places = np.minimum(np.searchsorted(self.names, keys), len(self.names) - 1)
        return there, there & (self.names[places] == keys) & (self.states[places] == states)

    def state(self, name: str) -> int:
        """What tells a file from another of its name; 0 if it is not there."""
        try:
            facts = os.stat(self.root + name)  # noqa: PTH116 - a path object would take longer than the look
        except OSError:
            return 0
        return hash((facts.st_size, facts.st_mtime_ns)) or 1

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


def marks(path: Path) -> Int64[np.ndarray, "n 2"]:
    """Hashes of name and state of each of a journal's lines, in their order."""
    found = (mark for name, *facts in rows_of(path) for mark in (hash(name), hash(tuple(facts)) or 1))
    return np.fromiter(found, np.int64).reshape(-1, 2)


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
