"""The chunks of an AVI file: whether one that lacks frames lacks its end alone."""

from __future__ import annotations

import re
import struct
from pathlib import Path

HEAD = struct.Struct("<4sI")  # a chunk's name and how many bytes follow
LISTS = (b"RIFF", b"LIST")
FILMS = (b"movi", b"rec ")  # the lists that hold frames; others are headers
# What lies beside and within them: frames and sound of stream 00 to 99, indexes, padding.
KNOWN = re.compile(rb"\d\d[a-zA-Z]{2}|ix\d\d|idx1|JUNK|LIST|RIFF")


def is_merely_cut(path: Path) -> bool:
    """Whether an AVI file ends within a chunk or before its header says, and has all its chunks until then.

    One that was damaged on the way has something else where a chunk should begin.
    """
    length, end, place = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while place + HEAD.size <= length:
            file.seek(place)
            name, size = HEAD.unpack(file.read(HEAD.size))
            if not KNOWN.fullmatch(name):
                return False
            if name == b"RIFF":
                end = max(end, place + HEAD.size + size)
            is_entered = name == b"RIFF" or (name == b"LIST" and file.read(4) in FILMS)
            place += HEAD.size + (4 if is_entered else size + size % 2)
    return end > length or place != length
