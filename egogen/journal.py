"""What is done so far, a JSON line each, appended when what it speaks of is on disk; a restart reads it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from egogen.disk import no_room
from egogen.errors import UserError, reason
from egogen.files import atomic_open, regular

Key = tuple[str, ...]
Row = dict[str, Any]
log = logging.getLogger(__name__)


class Journal:
    """The rows of a file by their key; of several rows with one key the last one counts.

    Reading changes nothing. What a killed run left of a last line is removed by the next `add`, so only the
    one process that holds the folder may add.

    Args:
        path: the `.jsonl` file; it need not exist.
        key: names of the texts that tell rows apart.
        anew: what becomes of a row that is deleted, for messages.
        is_whole: whether a row has what it needs beside its key.
        tolerant: damaged lines are counted in `damaged` and passed over.

    Raises:
        UserError: the file cannot be read, or a line is damaged.
    """

    def __init__(
        self,
        path: Path,
        key: Sequence[str],
        *,
        anew: str,
        is_whole: Callable[[Row], bool] = bool,
        tolerant: bool = False,
    ) -> None:
        self.path, self.key, self.is_whole = path, key, is_whole
        self.rows: dict[Key, Row] = {}
        self.damaged = 0
        try:
            if path.exists():
                with regular(path).open("rb") as file:
                    self.take(file, anew, tolerant)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({reason(error)})") from None

    def take(self, lines: IO[bytes], anew: str, tolerant: bool) -> None:
        """Reads line after line."""
        place = 0
        for number, line in enumerate(lines, start=1):
            row = self.parse(line)
            if row is not None:
                self.keep(self.key_of(row), row, place)
            elif tolerant:
                self.damaged += 1
            elif not line.endswith(b"\n"):
                log.warning("%s: dropped an unfinished last line", self.path)
            else:
                raise UserError(f"{self.path}: line {number} is damaged; delete the line, and {anew}")
            place += len(line)

    def keep(self, key: Key, row: Row, place: int) -> None:  # noqa: ARG002 - for journals that keep less
        """Keeps a row, which begins at a place in the file."""
        self.rows[key] = row

    def key_of(self, row: Row) -> Key:
        """What tells a row from others."""
        return tuple(row[name] for name in self.key)

    def parse(self, line: bytes) -> Row | None:
        """The row of a line; None if it is damaged."""
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            return None
        keyed = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in self.key)
        return row if keyed and self.is_whole(row) else None

    def add(self, rows: Sequence[Row]) -> None:
        """Appends rows and waits until they are on disk.

        Raises:
            UserError: the file cannot be written.
        """
        lines = [json.dumps(row).encode() + b"\n" for row in rows]
        content, place = b"".join(lines), 0
        try:
            if not self.path.exists():
                with atomic_open(self.path) as file:
                    file.write(content)
            else:
                with self.path.open("ab+") as file:
                    self.mend_tail(file)
                    place = file.seek(0, os.SEEK_END)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            told = no_room(self.path, error)
            raise told or UserError(f"{self.path}: cannot be written ({reason(error)})") from None
        for row, line in zip(rows, lines, strict=True):
            self.keep(self.key_of(row), row, place)
            place += len(line)

    def mend_tail(self, file: IO[bytes]) -> None:
        """Gives a last line without its end that end if it is whole, and removes it if it is not."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        content = file.read()
        start = content.rfind(b"\n") + 1
        if self.parse(content[start:]) is None:
            file.truncate(start)
        else:
            file.write(b"\n")
