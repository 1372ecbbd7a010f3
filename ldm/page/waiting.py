"""People wait in lines: in order, each with a place; those of a kind are served at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from threading import Condition, Thread
from typing import Generic, Protocol, TypeVar, runtime_checkable

from egogen.errors import UserError

log = logging.getLogger(__name__)


class FullError(UserError):
    """Nobody more may wait."""


@runtime_checkable
class Waiter(Protocol):
    """Who stands in a line."""

    @property
    def kind(self) -> Hashable:
        """Those of one kind may be served together."""
        ...

    def placed(self, line: str, place: int) -> None:
        """Is told its place, from 1; 0 is: its turn has come."""
        ...

    def fail(self, error: Exception) -> None:
        """Is told that serving it failed."""
        ...


Who = TypeVar("Who", bound=Waiter)


class Line(Generic[Who]):
    """A line, and the thread that serves it.

    Args:
        name: for those who wait.
        serve: is given those whose turn it is, all of one kind. What it raises is told to each of them.
        most: served together.
    """

    def __init__(self, name: str, serve: Callable[[Sequence[Who]], None], most: int) -> None:
        self.name, self.serve, self.most = name, serve, most
        self.waiting: list[Who] = []
        self.changed = Condition()
        self.closed = False
        self.thread = Thread(target=self.run, name=f"line: {name}", daemon=True)
        self.thread.start()

    def join(self, who: Sequence[Who]) -> None:
        """Adds them at the end, in order."""
        with self.changed:
            self.waiting += who
            self.tell()
            self.changed.notify()

    def leave(self, who: Who) -> bool:
        """Takes one out who waits; whether it did."""
        with self.changed:
            if who not in self.waiting:
                return False
            self.waiting.remove(who)
            self.tell()
            return True

    def close(self) -> None:
        """Sends all away and ends the thread once it is done with those whom it serves."""
        with self.changed:
            self.closed = True
            self.waiting.clear()
            self.changed.notify()

    def tell(self) -> None:
        """Tells all who wait their places."""
        for place, who in enumerate(self.waiting, 1):
            who.placed(self.name, place)

    def take(self) -> list[Who]:
        """Waits for somebody; takes the first, and as many of its kind as are served at once."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            if self.closed:
                return []
            kind = self.waiting[0].kind
            taken = [who for who in self.waiting if who.kind == kind][: self.most]
            self.waiting = [who for who in self.waiting if who not in taken]
            for who in taken:
                who.placed(self.name, 0)
            self.tell()
            return taken

    def run(self) -> None:
        """Serves until the line is closed."""
        while taken := self.take():
            try:
                self.serve(taken)
            except Exception as error:  # noqa: BLE001 - the line must go on; each is told
                for who in taken:
                    who.fail(error)
