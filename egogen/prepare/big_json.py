"""A large JSON file part by part: its text is held, but never all of its objects, which are far larger."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

SPACE = re.compile(r"[ \t\r\n]*")


class Reader:
    """Reads JSON from front to back.

    Args:
        text: the file's content. Errors are `json.JSONDecodeError`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.decoder = json.JSONDecoder()

    def value(self) -> Any:  # noqa: ANN401 - any JSON value
        """The whole value that is next."""
        self.skip()
        found, self.place = self.decoder.raw_decode(self.text, self.place)
        return found

    def members(self) -> Iterator[str | None]:
        """Enters the list or object that is next: yields each key, None in a list.

        After each, the caller reads the member, by `value` or `members`.
        """
        kind = self.take("{[")
        end = {"{": "}", "[": "]"}[kind]
        if self.skip() == end:
            self.take(end)
            return
        while True:
            key = None
            if kind == "{":
                self.expect('"')
                key = self.value()
                self.take(":")
            yield key
            if self.take("," + end) == end:
                return

    def skip(self) -> str:
        """Leaves white space out; returns the character behind it, "" at the end."""
        space = SPACE.match(self.text, self.place)
        self.place = space.end() if space else self.place
        return self.text[self.place : self.place + 1]

    def expect(self, allowed: str) -> str:
        """The next character, which must be one of these."""
        found = self.skip()
        if not found or found not in allowed:
            raise json.JSONDecodeError(f"Expecting one of {allowed}", self.text, self.place)
        return found

    def take(self, allowed: str) -> str:
        """Reads the next character, which must be one of these."""
        found = self.expect(allowed)
        self.place += 1
        return found
