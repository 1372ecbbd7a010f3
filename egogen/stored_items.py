"""Items of a large JSON file that stay on disk: 8 bytes of memory each, and read again when asked for."""

from __future__ import annotations

import json
import os
import stat
import sys
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Generic, TypeAlias, TypeVar, overload

import numpy as np
from jaxtyping import Int64

from egogen.errors import UserError, reason

LARGE = 1 << 26  # bytes of a file whose items stay on disk
AT_ONCE = 128  # items that are read together
DECODER = json.JSONDecoder()
SPACE = b", \t\r\n"  # before a member
Each = TypeVar("Each")
Make: TypeAlias = Callable[[str, str, dict[str, Any]], Each]


class KeptFile:
    """A file that was opened once and is read by place, from any thread or process.

    A file that takes its name meanwhile changes nothing; one that is written in place is told.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.handle = path, os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self.handle)
        self.facts = self.look()

    def look(self) -> tuple[int, int]:
        """Its size and time."""
        found = os.fstat(self.handle)
        return found.st_size, found.st_mtime_ns

    def open(self) -> IO[bytes]:
        """The whole of it, from the start; one at a time, they share a place."""
        os.lseek(self.handle, 0, os.SEEK_SET)
        return open(self.handle, "rb", closefd=False)

    def read(self, first: int, end: int) -> bytes:
        """The bytes from a place to another.

        Raises:
            UserError: it has changed since it was opened, or cannot be read.
        """
        try:
            content, facts = os.pread(self.handle, end - first, first), self.look()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({reason(error)})") from None
        if facts != self.facts or len(content) < end - first:
            raise UserError(f"{self.path}: has changed since this run began to read it; start it again")
        return content

    def __reduce__(self) -> tuple[Callable[..., KeptFile], tuple[Path, tuple[int, int]]]:
        return reopen, (self.path, self.facts)


def reopen(path: Path, facts: tuple[int, int]) -> KeptFile:
    """The file for another process, which has nothing open.

    Raises:
        UserError: it is not there any more, or has changed.
    """
    try:
        file = KeptFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    if file.facts != facts:
        raise UserError(f"{path}: has changed since this run began to read it; start it again")
    return file


class ItemStore(Generic[Each]):
    """Where the items of a file lie: members of objects that are the members of one.

    Args:
        path: the file.
        make: an item of the name of its object, its own and its value; a module's own, to be pickled.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, make: Make[Each]) -> None:
        self.file, self.make = KeptFile(path), make
        self.names: list[str] = []  # of the objects
        self.firsts = array("q")  # the row of the first item of each
        self.marks = array("q")  # of each, the byte behind its brace, and then behind each of its items

    def add(self, name: str, marks: Int64[np.ndarray, " n"]) -> None:
        """Notes the next object of the file."""
        if len(marks) > 1:  # others have no items
            self.firsts.append(len(self))
            self.names.append(sys.intern(name))  # other files may have it too
            self.marks.frombytes(marks.tobytes())

    def __len__(self) -> int:
        return len(self.marks) - len(self.names)

    @property
    def items(self) -> StoredItems[Each]:
        """All that were noted so far."""
        return StoredItems(self, range(len(self)))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Has the file open for a while, which may be closed: nobody keeps thousands open.

        Raises:
            UserError: it is not there any more, or has changed.
        """
        if self.file.close.alive:
            yield
            return
        self.file = reopen(self.file.path, self.file.facts)
        try:
            yield
        finally:
            self.file.close()

    def runs(self, rows: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Rows that can be read together: the first of them, and how many they are."""
        first = count = limit = 0
        for row in rows:
            if row == first + count and row < limit:
                count += 1
                continue
            if count:
                yield first, count
            first, count = row, 1
            place = bisect_right(self.firsts, row)
            end = self.firsts[place] if place < len(self.firsts) else len(self)
            limit = min(end, row + AT_ONCE)
        if count:
            yield first, count

    def read(self, row: int, count: int = 1) -> list[Each]:
        """Items of one object, from a row on.

        Raises:
            UserError: the file has changed, or cannot be read.
        """
        place = bisect_right(self.firsts, row) - 1
        first, end = self.marks[place + row], self.marks[place + row + count]
        content = self.file.read(first, end).lstrip(SPACE)
        name, make = self.names[place], self.make
        members, _ = DECODER.raw_decode(f"{{{content.decode()}}}")
        return [make(name, key, value) for key, value in members.items()]


class StoredItems(Sequence[Each]):
    """Items of a file, all or some of them; a slice is a view, too.

    Args:
        store: says where they lie.
        rows: which of them.
    """

    def __init__(self, store: ItemStore[Each], rows: Sequence[int]) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Each: ...
    @overload
    def __getitem__(self, place: slice) -> StoredItems[Each]: ...
    def __getitem__(self, place: int | slice) -> Each | StoredItems[Each]:
        if isinstance(place, slice):
            return StoredItems(self.store, self.rows[place])
        return self.store.read(self.rows[place])[0]

    def __iter__(self) -> Iterator[Each]:
        for first, count in self.store.runs(self.rows):
            yield from self.store.read(first, count)

    def choose(self, places: Int64[np.ndarray, " n"]) -> StoredItems[Each]:
        """Those at some places."""
        rows = self.rows
        known = np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else np.asarray(rows)
        return StoredItems(self.store, array("q", known[places].astype(np.int64).tobytes()))


def choose(items: Sequence[Each], places: Int64[np.ndarray, " n"]) -> Sequence[Each]:
    """Items at some places; of those that stay on disk a view."""
    if isinstance(items, StoredItems):
        return items.choose(places)
    return [items[place] for place in places.tolist()]


def store_of(path: Path, make: Make[Each], large: int | None = None) -> ItemStore[Each] | None:
    """A store for the items of a file above so many bytes; None for what is none, or not read by place."""
    large = LARGE if large is None else large
    with suppress(OSError, ValueError):  # who reads it as a whole says what is wrong
        facts = path.stat()
        if stat.S_ISREG(facts.st_mode) and facts.st_size > large and hasattr(os, "pread"):
            return ItemStore(path, make)
    return None
