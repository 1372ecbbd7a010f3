"""Millions of values a few at a time, so that no list holds them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

BLOCK = 1024
Value = TypeVar("Value")


def in_blocks(values: Iterable[Value], size: int = BLOCK) -> Iterator[list[Value]]:
    """The values in lists of so many, of which the last may be shorter."""
    left = iter(values)
    while block := list(islice(left, size)):
        yield block
