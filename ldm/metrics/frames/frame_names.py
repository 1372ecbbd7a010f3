"""Names of very many frames, and what belongs to each: in arrays, not in an object for each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from functools import cached_property
from typing import TypeVar

Value = TypeVar("Value")
ANY = "surrogatepass"  # files may have names that are no text


class FrameNames:
    """Names of frames (clip/action/file) by their places: their bytes and 8 more of memory each."""

    def __init__(self, names: Iterable[str]) -> None:
        text, self.ends = bytearray(), array("q", [0])
        for name in names:
            text += name.encode("utf-8", ANY)
            self.ends.append(len(text))
        self.text = bytes(text)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, place: int) -> str:
        return self.text[self.ends[place] : self.ends[place + 1]].decode("utf-8", ANY)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    @cached_property
    def order(self) -> array[int]:
        """The places in the order of the names."""
        return array("i", sorted(range(len(self)), key=self.__getitem__))


class ByFrame(Mapping[str, Value]):
    """What belongs to frames, by their names and in the order of these.

    Args:
        names: of all frames.
        take: finds it by a frame's place.
        order: places of the frames that have it, in the order of their names; by default all.
    """

    def __init__(
        self, names: FrameNames, take: Callable[[int], Value], order: array[int] | None = None
    ) -> None:
        self.names, self.take = names, take
        self.order = names.order if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[str]:
        return map(self.names.__getitem__, self.order)

    def __getitem__(self, name: str) -> Value:
        row = bisect_left(self.order, name, key=self.names.__getitem__)
        if row == len(self) or self.names[self.order[row]] != name:
            raise KeyError(name)
        return self.take(self.order[row])

    def values(self) -> ValuesView[Value]:
        """All in order, none of which is looked for by its name."""
        return InOrder(self)


class InOrder(ValuesView[Value]):
    """The values of a `ByFrame`."""

    _mapping: ByFrame[Value]

    def __iter__(self) -> Iterator[Value]:
        return map(self._mapping.take, self._mapping.order)
