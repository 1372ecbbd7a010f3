"""The chunks of an AVI file: how many of a stream lie in a row, whether any may be missing between them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

HEAD = struct.Struct("<4sI")  # a chunk's name and how many bytes follow
FILMS = (b"movi", b"rec ")  # the lists that hold frames; others are headers
# What lies beside and within them: frames and sound of stream 00 to 99, indexes, padding.
KNOWN = re.compile(rb"\d\d[a-zA-Z]{2}|ix\d\d|idx1|JUNK|LIST|RIFF")


def chunks_in_a_row(path: Path, stream: int) -> int | None:
    """How many chunks of a stream begin in an AVI file, the last one perhaps cut off.

    Args:
        path: the file.
        stream: its number, from 0.

    Returns:
        None if it was damaged on the way: something else is where a chunk should begin.
    """
    length, place, count = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while place + HEAD.size < length:
            file.seek(place)
            name, size = HEAD.unpack(file.read(HEAD.size))
            if not KNOWN.fullmatch(name):
                return None
            count += name in (b"%02ddc" % stream, b"%02ddb" % stream)
            is_entered = name == b"RIFF" or (name == b"LIST" and file.read(4) in FILMS)
            place += HEAD.size + (4 if is_entered else size + size % 2)
    return count
