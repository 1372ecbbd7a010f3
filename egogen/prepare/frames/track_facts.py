"""What MP4 and Matroska say of a track's pictures and PyAV does not tell: what is cropped, Dolby Vision."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

Part: TypeAlias = tuple[bytes, int, int]  # of a file: its name, where its content begins and ends
Walk: TypeAlias = Callable[[IO[bytes], int, int], Iterator[Part]]
Margins: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

MOST_PARTS = 100_000  # in one place that are looked at
# MP4's boxes (ISO/IEC 14496-12); of a picture's sample entry, boxes lie behind 78 bytes (12.1.3).
TRACK, ENTRIES = (b"moov", b"trak"), (b"mdia", b"minf", b"stbl", b"stsd")
ENTRIES_HEAD, ENTRY_HEAD, ENTRY_SIZE = 8, 78, struct.Struct(">24xHH")
APERTURE = struct.Struct(">4I" + "iIiI")  # width, height, and how far its centre lies right and below
PIXEL = struct.Struct(">2I")  # how wide and how high
DOLBY_BOXES = (b"dvcC", b"dvvC", b"dvwC")
# Matroska's elements (RFC 9559, 5.1.4): a track, its cropping, and what is kept beside its frames.
M_TRACK = (b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae")
M_CROPS = (b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa")  # left, top, right, bottom
M_VIDEO, M_BESIDE, M_KIND, M_EXTRA = b"\xe0", b"\x41\xe4", b"\x41\xe7", b"\x41\xed"
LONGEST = 64  # bytes of a fact
# What headers without a fact, or damaged ones, end in.
DAMAGED = (StopIteration, OSError, struct.error, ArithmeticError, LookupError)
# Profiles of Dolby Vision that may have no picture for others, which compatibility 0 says (ETSI TS 103 572).
ALONE = (5, 10, 20)


class TrackFacts(NamedTuple):
    """What is known of a track.

    `crop`: how many pixels are left out. `size`: of the pictures that it is of, where that is said. `aspect`:
    how wide a pixel of them is, where FFmpeg takes the cropping for a stretch. `dolby`: the profile of Dolby
    Vision that stands alone.
    """

    crop: Margins = (0, 0, 0, 0)
    dolby: int | None = None
    size: tuple[int, int] | None = None
    aspect: Fraction | None = None


NO_FACTS = TrackFacts()


def track_facts(path: Path, container: str, index: int) -> TrackFacts:
    """Reads the headers of a track.

    Args:
        path: the file.
        container: its format as FFmpeg names it; of others than MP4 and Matroska nothing is known.
        index: which track, from 0.

    Returns:
        What it says; of damaged headers as much as can be read.
    """
    reader = next((read for name, read in READERS.items() if name in container), None)
    if reader is not None:
        with suppress(*DAMAGED), path.open("rb") as file:
            return reader(file, path.stat().st_size, index)
    return NO_FACTS


def of_mp4(file: IO[bytes], size: int, index: int) -> TrackFacts:
    """The facts of an MP4 track, by the first of its sample entries."""
    track = next(islice(below(file, boxes, TRACK, 0, size), index, index + 1))
    begin, end = next(below(file, boxes, ENTRIES, *track))
    _, begin, end = next(boxes(file, begin + ENTRIES_HEAD, end))
    width, height = ENTRY_SIZE.unpack(content(file, begin, begin + ENTRY_SIZE.size))
    crop, dolby, aspect = (0, 0, 0, 0), None, Fraction(1)  # of pixels, where no `pasp` says another
    parts = islice(boxes(file, begin + ENTRY_HEAD, end), MOST_PARTS)
    with suppress(*DAMAGED):  # of the walk: what was found before stays
        for kind, *place in parts:
            with suppress(*DAMAGED):
                if kind == b"clap":
                    crop = margins(width, height, APERTURE.unpack(content(file, *place)))
                elif kind == b"pasp":
                    aspect = Fraction(*PIXEL.unpack(content(file, *place)))
                elif kind in DOLBY_BOXES:
                    dolby = dolby_alone(content(file, *place))
    return TrackFacts(crop, dolby, (width, height), aspect if any(crop) else None)


def of_matroska(file: IO[bytes], size: int, index: int) -> TrackFacts:
    """The facts of a Matroska track."""
    track = next(islice(below(file, elements, M_TRACK, 0, size), index, index + 1))
    crop, dolby = (0, 0, 0, 0), None
    with suppress(*DAMAGED):
        left, top, right, bottom = (
            sum(number(file, *place) for place in below(file, elements, (M_VIDEO, name), *track))
            for name in M_CROPS
        )
        crop = left, top, right, bottom
    with suppress(*DAMAGED):
        for beside in below(file, elements, (M_BESIDE,), *track):
            kinds = [content(file, *place) for place in below(file, elements, (M_KIND,), *beside)]
            if any(kind.lstrip(b"\0") in DOLBY_BOXES for kind in kinds):
                dolby = dolby_alone(content(file, *next(below(file, elements, (M_EXTRA,), *beside))))
    return TrackFacts(crop, dolby)


READERS = {"mp4": of_mp4, "matroska": of_matroska}


def boxes(file: IO[bytes], begin: int, end: int) -> Iterator[Part]:
    """The boxes in a part of an MP4 file."""
    while begin + 8 <= end:
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        size = size or end - begin  # 0: to the end
        if size < head:
            return
        yield kind, begin + head, min(begin + size, end)
        begin += size


def elements(file: IO[bytes], begin: int, end: int) -> Iterator[Part]:
    """The elements in a part of a Matroska file (RFC 8794, 4 to 6)."""
    while begin < end:
        file.seek(begin)
        head = file.read(12)
        name = 9 - head[0].bit_length()  # the bits before the first 1 say how many bytes follow
        length = 9 - head[name].bit_length()
        size = int.from_bytes(head[name : name + length], "big") & ((1 << 7 * length) - 1)
        is_open = size == (1 << 7 * length) - 1
        start = begin + name + length
        begin = end if is_open else start + size
        yield head[:name], start, min(begin, end)


def below(
    file: IO[bytes], walk: Walk, path: Sequence[bytes], begin: int, end: int
) -> Iterator[tuple[int, int]]:
    """Where all parts of a path lie within a part."""
    for kind, start, stop in islice(walk(file, begin, end), MOST_PARTS):
        if kind == path[0]:
            if len(path) == 1:
                yield start, stop
            else:
                yield from below(file, walk, path[1:], start, stop)


def content(file: IO[bytes], begin: int, end: int) -> bytes:
    """The first bytes of a part."""
    file.seek(begin)
    return file.read(min(end - begin, LONGEST))


def number(file: IO[bytes], begin: int, end: int) -> int:
    """A number in a Matroska element."""
    return int.from_bytes(content(file, begin, end), "big")


def margins(width: int, height: int, said: Sequence[int]) -> Margins:
    """What a clean aperture leaves out (ISO/IEC 14496-12, 12.1.4).

    Of a pixel that it has a part of, the right or lower part is left out; an aperture that is none, or
    reaches beyond the picture, counts for nothing.
    """
    fractions = [Fraction(said[place], said[place + 1]) for place in range(0, 8, 2)]
    firsts, lasts = [], []
    for side, wanted, centre in zip((width, height), fractions[:2], fractions[2:], strict=True):
        first = centre + (side - wanted) / 2
        last = first + wanted - 1
        if wanted < 1 or first < 0 or last > side - 1:
            return 0, 0, 0, 0
        firsts.append(math.floor(first))
        lasts.append(side - 1 - math.floor(last))
    return firsts[0], firsts[1], lasts[0], lasts[1]


def dolby_alone(record: bytes) -> int | None:
    """The profile by Dolby Vision's configuration record, where others have no picture of their own."""
    profile, compatible = record[2] >> 1, record[4] >> 4
    return profile if profile in ALONE and not compatible else None
