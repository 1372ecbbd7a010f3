"""Every answer that was ever paid for, a JSON line each, by its request's key: what a restart reads.

A run reads all files of the folder and appends to one of its own: runs share answers, and no file.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from egogen.journal import Journal, Row
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
        folder: of `.jsonl` files; a line that is damaged or unfinished is passed over.

    Raises:
        UserError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        started = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{started}-{secrets.token_hex(4)}.jsonl"
        self.lock = threading.Lock()
        self.replies: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            earlier = open_journal(path)
            self.replies |= {row["key"]: Reply(**row["reply"]) for row in earlier.rows.values()}
            if earlier.damaged:
                told = "%s: passed over %d unfinished or damaged lines; they are asked anew"
                log.warning(told, path, earlier.damaged)
        self.journal = open_journal(self.path)

    def get(self, key: str) -> Reply | None:
        """The answer to a request, if there is one."""
        return self.replies.get(key)

    def add(self, made: Sequence[Line]) -> None:
        """Appends answers and waits until they are on disk.

        Raises:
            UserError: the file cannot be written.
        """
        with self.lock:
            self.journal.add([{**line._asdict(), "reply": asdict(line.reply)} for line in made])
            self.replies.update({line.key: line.reply for line in made})


def open_journal(path: Path) -> Journal:
    """One file of answers."""
    return Journal(path, ("key",), is_whole=is_reply, anew="it is asked anew", tolerant=True)


def is_reply(row: Row) -> bool:
    """Whether a row holds an answer."""
    try:
        Reply(**row["reply"])
    except (KeyError, TypeError):
        return False
    return True
