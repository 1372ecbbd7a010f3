"""A large JSON object value by value, so that its text is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from egogen.errors import UserError
from egogen.files import HALF_CHARACTER, atomic_open, finite_number, is_deep, regular, unique_keys

BLOCK = 1 << 22  # bytes read at a time
WHITE = re.compile(r"[ \t\n\r]*")
KEY = re.compile(r'[\s,]*"(?:[^"\\]|\\.)*"\s*:\s*')  # of a member, in an object that is JSON
END = ord("}")
DECODER = json.JSONDecoder()
PLAIN = frozenset({str, int, bool, type(None)})  # values that need no closer look
OBJECTS = frozenset({dict})


class UnusualJsonError(Exception):
    """The file is not what nearly all are; `egogen.files.read_json` says what is wrong, if anything is."""


class Streamed(NamedTuple):
    """A member of an object.

    `marks`: tells where the members of the value lie: the byte of the file behind the value's brace, then the
    bytes behind each. To be asked before the next one is.
    """

    key: str
    value: dict[str, Any]
    marks: Callable[[], Int64[np.ndarray, " n"]]


def stream_object(path: Path, opened: Callable[[], IO[bytes]] | None = None) -> Iterator[Streamed]:
    """Members of a file that is one object of objects, checked as `egogen.files.parse_json` does.

    Args:
        path: the file.
        opened: opens it, if not by its path.

    Raises:
        UserError: a value is not as `parse_json` wants it.
        UnusualJsonError: it is no such file, or asks for a closer look. What came before stands.
    """
    try:
        with regular(path).open("rb") if opened is None else opened() as file:
            yield from Stream(file, f"{path}").members()
    except UserError:
        raise
    except (ValueError, IndexError, RecursionError, OSError) as error:
        raise UnusualJsonError from error


class Stream:
    """A text that is read as far as it is needed.

    Args:
        file: opened, of bytes.
        where: for messages.

    Raises:
        OSError, ValueError: it cannot be read, or is not JSON of that kind.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        start = file.read(len(codecs.BOM_UTF8))
        self.bytes = len(start) if start == codecs.BOM_UTF8 else 0  # of the file, as far as they are counted
        blocks = chain([start[self.bytes :]], iter(partial(file.read, BLOCK), b""))
        self.blocks = codecs.iterdecode(blocks, "utf-8")
        self.text, self.place, self.begun, self.counted = "", 0, 0, 0
        hook = partial(finite_number, where)
        unique = partial(unique_keys, where)
        self.decoder = json.JSONDecoder(object_pairs_hook=unique, parse_float=hook, parse_constant=hook)

    def members(self) -> Iterator[Streamed]:
        """The object's members."""
        seen: set[str] = set()
        self.take("{")
        while self.sign() != "}":
            if seen:
                self.take(",")
            key = self.value()
            self.take(":")
            value = self.value()
            if type(key) is not str or key in seen or type(value) is not dict:
                raise ValueError
            seen.add(key)
            yield Streamed(key, value, partial(self.marks, value))
        self.take("}")
        if self.sign():
            raise ValueError

    def more(self) -> bool:
        """Reads on, as much again as is there: a long value is not begun too often; False at the end."""
        self.byte(self.place)
        parts = [self.text[self.place :]]  # what is behind us goes
        for text in self.blocks:
            parts.append(text)
            if sum(map(len, parts[1:])) >= len(parts[0]):
                break
        self.text, self.place, self.counted = "".join(parts), 0, 0
        return len(parts) > 1

    def sign(self) -> str:
        """The next sign that is no space; "" at the end."""
        while True:
            self.place = WHITE.match(self.text, self.place).end()  # type: ignore[union-attr]  # of any text
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""

    def take(self, sign: str) -> None:
        """Goes past a sign."""
        if self.sign() != sign:
            raise ValueError
        self.place += 1

    def value(self) -> Any:  # noqa: ANN401 - any JSON
        """The next value; one that the text so far cuts off is read again with more of it."""
        self.sign()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            if end < len(self.text) or not self.more():  # what ends with the text may go on behind it
                break
        if not self.is_plain(value, end):
            value, end = self.decoder.raw_decode(self.text, self.place)
            if is_deep([value]):
                raise ValueError
        escapes = self.text.find("\\", self.place, end) >= 0
        if escapes and HALF_CHARACTER.search(self.text, self.place, end):
            json.dumps(value, ensure_ascii=False).encode()  # a ValueError, unless each has its other half
        self.begun, self.place = self.place, end
        return value

    def byte(self, place: int) -> int:
        """The byte of the file at a place of the text, which lies behind all that were asked for."""
        between = self.text[self.counted : place]
        self.bytes += len(between) if between.isascii() else len(between.encode())
        self.counted = place
        return self.bytes

    def marks(self, value: dict[str, Any]) -> Int64[np.ndarray, " n"]:
        """Where the members of the value given last lie; see `Streamed`."""
        start, text = self.byte(self.begun), self.text[self.begun : self.place]
        ends = np.flatnonzero(np.frombuffer(text.encode(), np.uint8) == END) + 1
        # Or else some members are no objects, or some signs those of texts, or of values within values.
        if len(ends) != len(value) + 1 or not OBJECTS.issuperset(map(type, value.values())):
            places = pairwise([0, 1, *member_ends(text)])
            ends = np.cumsum([len(text[first:end].encode()) for first, end in places])
            return start + ends
        return start + np.append(1, ends[:-1])

    def is_plain(self, value: object, end: int) -> bool:
        """Whether a value that ends there is one of nearly all: objects of texts, none of whose keys is lost.

        Each key of the text has a colon, and each colon is a key's if there are no more of them than keys.
        """
        if type(value) is not dict:
            return False
        entries = value.values()
        # In loops of C's alone, of millions of entries.
        if not OBJECTS.issuperset(map(type, entries)):
            return False
        if not PLAIN.issuperset(map(type, chain.from_iterable(map(dict.values, entries)))):
            return False
        return self.text.count(":", self.place, end) == len(value) + sum(map(len, entries))


def member_ends(text: str) -> Iterator[int]:
    """Where each member of an object ends, of a text that is JSON."""
    place = 1
    while key := KEY.match(text, place):
        _, place = DECODER.raw_decode(text, key.end())
        yield place


def write_members(path: Path, members: Iterable[str]) -> None:
    """Writes an object as `write_json` does; its members are never in memory together.

    Args:
        path: the file.
        members: each as `member` gives it.
    """
    with atomic_open(path) as file:
        sign = b"{"
        for text in members:
            file.write(sign + text.encode())
            sign = b","
        file.write(b"\n}\n" if sign == b"," else b"{}\n")


def member(key: str, value: object) -> str:
    """A member of an object as `write_json` writes it."""
    return json.dumps({key: value}, indent=4)[1:-2]
