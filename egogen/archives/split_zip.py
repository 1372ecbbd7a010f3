"""Archives in several files read as one: Info-ZIP's (`x.z01`, `x.z02`, `x.zip`), plain pieces (`x.zip.001`).

An Info-ZIP split archive counts offsets from the start of each part. `joined` gives it a directory that
counts from the start of the first, as `zip -s0` does, but without writing the archive anew.
"""

from __future__ import annotations

import io
import re
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from egogen.errors import UserError

# The records of APPNOTE.TXT, sections 4.3.12 to 4.3.16.
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY_MARK, END_MARK, LOCATOR_MARK, END64_MARK = b"PK\1\2", b"PK\5\6", b"PK\6\7", b"PK\6\6"
ZIP64_EXTRA = 1
ZIP64_VERSION = 45
FULL16, FULL32 = 0xFFFF, 0xFFFF_FFFF  # "see the zip64 field"
LONGEST_COMMENT = 0xFFFF

INFO_ZIP_PART = re.compile(r"(?P<stem>.+)\.z(?P<part>\d{2,})", re.IGNORECASE)
PIECE = re.compile(r"(?P<stem>.+)\.zip\.(?P<part>\d{2,4}|[a-z]{2})", re.IGNORECASE)


class ZipArchive(NamedTuple):
    """An archive in a folder: its name without `.zip`, and the names of its files in reading order."""

    name: str
    parts: list[str]


def group_archives(names: Iterable[str]) -> list[ZipArchive]:
    """Which of these files are archives, and which of them belong together."""
    parts: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for name in names:
        if match := INFO_ZIP_PART.fullmatch(name) or PIECE.fullmatch(name):
            parts[match["stem"]].append((len(match["part"]), match["part"].lower(), name))
        elif name.lower().endswith(".zip"):
            parts[name[: -len(".zip")]].append((FULL16, "", name))  # the last part
    return [ZipArchive(stem, [name for *_, name in sorted(found)]) for stem, found in sorted(parts.items())]


class Piece(NamedTuple):
    """The first `size` bytes of a stream."""

    stream: io.BufferedIOBase
    size: int


class Joined(io.RawIOBase):
    """Pieces read as one file, one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self.place = 0
        self.lay(pieces)

    def lay(self, pieces: Sequence[Piece]) -> None:
        """Lets the whole consist of these."""
        self.pieces = pieces
        *self.starts, self.size = accumulate((piece.size for piece in pieces), initial=0)

    def end_by(self, start: int, content: bytes) -> None:
        """Lets other bytes follow from a place on."""
        kept = [
            Piece(stream, max(0, min(size, start - begin)))
            for (stream, size), begin in zip(self.pieces, self.starts, strict=True)
        ]
        self.lay([*kept, Piece(io.BytesIO(content), len(content))])

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to a place of the whole."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, base + offset)
        return self.place

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Reads on, to the end of one piece at most."""
        if self.place >= self.size:
            return 0
        index = bisect_right(self.starts, self.place) - 1
        stream, size = self.pieces[index]
        inside = self.place - self.starts[index]
        stream.seek(inside)
        content = stream.read(max(0, min(len(buffer), size - inside)))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def close(self) -> None:
        """Closes the streams."""
        for stream, _ in self.pieces:
            stream.close()
        super().close()


class End(NamedTuple):
    """What an archive's last record says: its parts, its entries, and where its directory is in the whole."""

    disks: int
    entries: int
    start: int
    size: int


def joined(paths: Sequence[Path]) -> io.BufferedReader:
    """Opens an archive's files, in reading order, as one zip file.

    Raises:
        UserError: a part is missing or of another archive.
        struct.error, ValueError: a part is cut off or damaged.
    """
    files = Joined([Piece(path.open("rb"), path.stat().st_size) for path in paths])
    whole: io.BufferedReader = io.BufferedReader(files, 1 << 20)
    try:
        end = find_end(whole, files.starts)
        if end.disks not in (1, len(paths)):
            raise UserError(
                f"{paths[-1]}: the archive has {end.disks} parts, found {len(paths)} "
                f"({', '.join(path.name for path in paths)}); fetch the missing ones"
            )
        if end.start + end.size > files.size:
            raise UserError(f"{paths[-1]}: its directory is not in it; fetch it again, with all of its parts")
        if end.disks == 1:  # a plain archive, perhaps in plain pieces
            return whole
        whole.seek(end.start)
        entries = list(entries_of_whole(whole.read(end.size), files.starts, paths[-1]))
        if len(entries) != end.entries:
            raise UserError(
                f"{paths[-1]}: {end.entries} entries announced, {len(entries)} found; fetch it again"
            )
    except BaseException:
        whole.close()
        raise
    whole.detach()
    directory = b"".join(entries)
    files.end_by(end.start, directory + end_of_whole(len(entries), len(directory), end.start))
    return io.BufferedReader(files, 1 << 20)


def find_end(whole: io.BufferedReader, starts: Sequence[int]) -> End:
    """Reads the records at the end of an archive.

    Args:
        whole: all of its parts.
        starts: where each part begins.

    Raises:
        struct.error: there are none.
    """
    size = whole.seek(0, io.SEEK_END)
    first = whole.seek(max(0, size - END.size - LONGEST_COMMENT))
    tail = whole.read()
    at = tail.rfind(END_MARK)
    _, last, disk, _, entries, length, offset, _ = END.unpack_from(tail, at if at >= 0 else len(tail))
    disks = last + 1
    whole.seek(max(0, first + at - LOCATOR.size))
    mark, disk64, offset64, disks64 = LOCATOR.unpack(whole.read(LOCATOR.size).ljust(LOCATOR.size, b"\0"))
    if mark == LOCATOR_MARK:
        disks = disks64
        whole.seek(starts[min(disk64, len(starts) - 1)] + offset64)
        *_, disk, _, entries, length, offset = END64.unpack(whole.read(END64.size))
    return End(disks, entries, starts[min(disk, len(starts) - 1)] + offset, length)


def entries_of_whole(directory: bytes, starts: Sequence[int], path: Path) -> Iterator[bytes]:
    """The entries of a split archive's directory, with offsets that count from the start of the whole."""
    at = 0
    while directory[at : at + 4] == ENTRY_MARK:
        fields = list(ENTRY.unpack_from(directory, at))
        packed, unpacked, name, extra, comment, disk = fields[8:14]
        offset = fields[16]
        after = at + ENTRY.size + name
        extras = dict(extra_fields(directory[after : after + extra]))
        wide = io.BytesIO(extras.pop(ZIP64_EXTRA, b""))
        # APPNOTE 4.5.3: the zip64 field holds, in this order, those values that are full elsewhere.
        unpacked, packed, offset = (
            int.from_bytes(wide.read(8), "little") if value == FULL32 else value
            for value in (unpacked, packed, offset)
        )
        disk = int.from_bytes(wide.read(4), "little") if disk == FULL16 else disk
        if disk >= len(starts):
            raise UserError(f"{path}: an entry starts in part {disk + 1} of {len(starts)}; fetch it again")
        new = struct.pack("<HH3Q", ZIP64_EXTRA, 24, unpacked, packed, starts[disk] + offset)
        new += b"".join(struct.pack("<HH", key, len(value)) + value for key, value in extras.items())
        fields[2] = max(fields[2], ZIP64_VERSION)
        fields[8:14] = FULL32, FULL32, name, len(new), comment, 0
        fields[16] = FULL32
        end = after + extra + comment
        yield ENTRY.pack(*fields) + directory[at + ENTRY.size : after] + new + directory[after + extra : end]
        at = end


def extra_fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The extra fields of an entry: (kind, value)."""
    at = 0
    while at + 4 <= len(content):
        kind, size = struct.unpack_from("<HH", content, at)
        yield kind, content[at + 4 : at + 4 + size]
        at += 4 + size


def end_of_whole(entries: int, size: int, start: int) -> bytes:
    """The last records of an archive of one part, in their zip64 form."""
    end64 = END64.pack(
        END64_MARK, END64.size - 12, ZIP64_VERSION, ZIP64_VERSION, 0, 0, entries, entries, size, start
    )
    locator = LOCATOR.pack(LOCATOR_MARK, 0, start + size, 1)
    return end64 + locator + END.pack(END_MARK, 0, 0, FULL16, FULL16, FULL32, FULL32, 0)
