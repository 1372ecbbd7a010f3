"""Files of the page: under names that nobody guesses, below its own folder, the newest ones alone."""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from egogen.errors import UserError, reason

Fact = TypeVar("Fact")
log = logging.getLogger(__name__)


class NotKeptError(UserError):
    """A file that the disk does not take."""


class Shelf(Generic[Fact]):
    """Keeps files, and a fact on each; which were not used for longest go where there are too many.

    Args:
        folder: where the files lie.
        most: files that are kept.
        most_bytes: of all of them together.
    """

    def __init__(self, folder: Path, most: int, most_bytes: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.most, self.most_bytes = folder, most, most_bytes
        self.facts: OrderedDict[str, tuple[int, Fact]] = OrderedDict()
        self.bytes, self.lock = 0, Lock()

    def put(self, content: bytes, fact: Fact, name: str | None = None) -> str:
        """Keeps a file; returns its name.

        Raises:
            NotKeptError: the disk does not take it; nothing of it is left.
        """
        name = name or secrets.token_urlsafe(16)
        with self.lock:
            try:
                self.path(name).write_bytes(content)
            except OSError as error:
                with suppress(OSError):  # a disk that fails may not let go of it either
                    self.path(name).unlink(missing_ok=True)
                log.warning("%s: cannot be written (%s)", self.folder, reason(error))
                raise NotKeptError(f"the page's disk does not take this file ({reason(error)})") from None
            self.facts[name] = (len(content), fact)
            self.bytes += len(content)
            while len(self.facts) > 1 and (len(self.facts) > self.most or self.bytes > self.most_bytes):
                old, (size, _) = self.facts.popitem(last=False)
                self.path(old).unlink(missing_ok=True)
                self.bytes -= size
        return name

    def get(self, name: str) -> Fact | None:
        """The fact on a file, which is used now; None where it is not kept (any more)."""
        with self.lock:
            if name not in self.facts:
                return None
            self.facts.move_to_end(name)
            return self.facts[name][1]

    def all(self) -> list[tuple[str, Fact]]:
        """Names and facts of all files, by name."""
        with self.lock:
            return [(name, self.facts[name][1]) for name in sorted(self.facts)]

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name
