"""The pairs of an evaluation in arrays: some 100 bytes and its name each, and an object when asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from egogen.annotations import Item
from egogen.layout import FRAME_FORMATS, generated_name
from egogen.packed_frames import DrawnFrames, FrameFile
from egogen.stored_items import choose
from ldm.metrics.frames.frame_names import FrameNames
from ldm.metrics.frames.images import Header, Size

HASH = 32  # bytes of a SHA-256


@dataclass(frozen=True)
class Pair:
    """A generated frame and its target; `frame` is clip/action/file, the pair's name in every result."""

    item: Item
    frame: str
    generated: FrameFile
    reference: FrameFile
    sizes: tuple[Size, Size]
    hashes: tuple[str, str]


class FoundFrames(NamedTuple):
    """The files of frames: where they lie, and which of the formats each has by its place."""

    drawn: DrawnFrames
    formats: UInt8[np.ndarray, " n"]

    def file(self, place: int, frame: str) -> FrameFile:
        """A frame's file."""
        return self.drawn.file(generated_name(frame, FRAME_FORMATS[self.formats[place]]))

    def at(self, places: Sequence[int]) -> FoundFrames:
        """Those at some places."""
        return self._replace(formats=self.formats[np.asarray(places, np.int64)])


class PairTable:
    """Pairs by their places; each is made when it is asked for.

    Args:
        items: of the pairs.
        names: of the pairs.
        files: those of either side.
        known: a table of the same targets; what it says of them is not held twice.
    """

    def __init__(
        self,
        items: Sequence[Item],
        names: FrameNames,
        files: tuple[FoundFrames, FoundFrames],
        known: PairTable | None = None,
    ) -> None:
        self.items, self.names, self.files, self.known = items, names, files, known
        self.numbers: dict[tuple[Size, Size], int] = {}
        self.kinds: list[tuple[Size, Size]] = []  # sizes of pairs, by those numbers
        self.sizes = array("i")  # their number, of each pair
        self.drawn_marks = bytearray()  # SHA-256 of each file
        self.target_marks: bytearray = bytearray() if known is None else known.target_marks

    def add(self, generated: Header, reference: Header) -> None:
        """Notes what the files of the next pair are."""
        sizes = generated.size, reference.size
        number = self.numbers.setdefault(sizes, len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append(sizes)
        self.sizes.append(number)
        self.drawn_marks += bytes.fromhex(generated.sha256)
        if self.known is None:
            self.target_marks += bytes.fromhex(reference.sha256)

    def target(self, place: int) -> Header | None:
        """What another run's table knows of a pair's target."""
        if self.known is None:
            return None
        return Header(self.known.kinds[self.known.sizes[place]][1], "", self.known.hashes(place)[1])

    def paths(self, place: int) -> tuple[FrameFile, FrameFile]:
        """The files of a pair."""
        name = self.names[place]
        generated, reference = (found.file(place, name) for found in self.files)
        return generated, reference

    def hashes(self, place: int) -> tuple[str, str]:
        """SHA-256 of a pair's files."""
        part = slice(HASH * place, HASH * (place + 1))
        return self.drawn_marks[part].hex(), self.target_marks[part].hex()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Pair:
        return self.made(place, self.items[place])

    def __iter__(self) -> Iterator[Pair]:
        return map(self.made, range(len(self)), self.items)

    def at(self, places: Int64[np.ndarray, " k"]) -> Iterator[Pair]:
        """Those at some places."""
        return map(self.made, places.tolist(), choose(self.items, places))

    def made(self, place: int, item: Item) -> Pair:
        """A pair as an object."""
        sizes = self.kinds[self.sizes[place]]
        return Pair(item, self.names[place], *self.paths(place), sizes, self.hashes(place))

    def groups(self) -> Iterator[Int64[np.ndarray, " k"]]:
        """Places of pairs of equal sizes, those first whose sizes came first."""
        numbers = np.frombuffer(self.sizes, np.int32)
        ordered = np.argsort(numbers, kind="stable")
        yield from np.split(ordered, np.flatnonzero(np.diff(numbers[ordered])) + 1)
