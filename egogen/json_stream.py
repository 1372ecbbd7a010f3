"""A large JSON object value by value, so that its text is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from egogen.errors import UserError
from egogen.files import HALF_CHARACTER, finite_number, is_deep, regular, unique_keys

BLOCK = 1 << 22  # bytes read at a time
WHITE = re.compile(r"[ \t\n\r]*")
PLAIN = frozenset({str, int, bool, type(None)})  # values that need no closer look


class UnusualJsonError(Exception):
    """The file is not what nearly all are; `egogen.files.read_json` says what is wrong, if anything is."""


def stream_object(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and values of a file that is one object of objects, checked as `egogen.files.parse_json` does.

    Raises:
        UserError: a value is not as `parse_json` wants it.
        UnusualJsonError: it is no such file, or asks for a closer look. What came before stands.
    """
    try:
        with regular(path).open("rb") as file:
            yield from Stream(file, f"{path}").pairs()
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
        self.blocks = codecs.iterdecode(iter(partial(file.read, BLOCK), b""), "utf-8-sig")
        self.text, self.place = "", 0
        self.quick = json.JSONDecoder()
        hook = partial(finite_number, where)
        unique = partial(unique_keys, where)
        self.decoder = json.JSONDecoder(object_pairs_hook=unique, parse_float=hook, parse_constant=hook)

    def pairs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The object's keys and values."""
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
            yield key, value
        self.take("}")
        if self.sign():
            raise ValueError

    def more(self) -> bool:
        """Reads on, as much again as is there: a long value is not begun too often; False at the end."""
        parts = [self.text[self.place :]]  # what is behind us goes
        for text in self.blocks:
            parts.append(text)
            if sum(map(len, parts[1:])) >= len(parts[0]):
                break
        self.text, self.place = "".join(parts), 0
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
                value, end = self.quick.raw_decode(self.text, self.place)
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
        if HALF_CHARACTER.search(self.text, self.place, end):
            raise ValueError
        self.place = end
        return value

    def is_plain(self, value: object, end: int) -> bool:
        """Whether a value that ends there is one of nearly all: objects of texts, none of whose keys is lost.

        Each key of the text has a colon, and each colon is a key's if there are no more of them than keys.
        """
        if type(value) is not dict:
            return False
        entries = value.values()
        if not all(type(entry) is dict and PLAIN.issuperset(map(type, entry.values())) for entry in entries):
            return False
        return self.text.count(":", self.place, end) == len(value) + sum(map(len, entries))
