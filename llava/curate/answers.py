"""Every answer that was ever paid for, a JSON line each, by its request's key: what a restart reads.

A run reads all files of the folder and appends to one of its own: runs share answers, and no file.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from egogen.disk import no_room
from egogen.errors import UserError
from llava.curate.exchange import Reply

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A reply, its request's key, and for a reader of the file: who was asked about which action."""

    key: str
    reply: Reply
    model: str
    action: str


class Answers:
    """The answers of a folder.

    Args:
        folder: of `.jsonl` files; a line that a killed run left unfinished is passed over.

    Raises:
        UserError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        started = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{started}-{secrets.token_hex(4)}.jsonl"
        self.lock = threading.Lock()
        self.replies: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self.read(path)

    def read(self, path: Path) -> None:
        """Reads the whole lines of a file."""
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        damaged = 0
        for line in filter(None, lines):
            try:
                entry = json.loads(line)
                self.replies[entry["key"]] = Reply(**entry["reply"])
            except (ValueError, TypeError, KeyError):
                damaged += 1
        if damaged:
            log.warning("%s: passed over %d unfinished or damaged lines; they are asked anew", path, damaged)

    def get(self, key: str) -> Reply | None:
        """The answer to a request, if there is one."""
        return self.replies.get(key)

    def add(self, made: Sequence[Line]) -> None:
        """Appends answers and waits until they are on disk.

        Raises:
            UserError: the file cannot be written.
        """
        text = "".join(json.dumps({**line._asdict(), "reply": asdict(line.reply)}) + "\n" for line in made)
        with self.lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                told = no_room(self.path, error)
                raise told or UserError(f"{self.path}: cannot be written ({error.strerror})") from None
            self.replies.update({line.key: line.reply for line in made})
