"""Writes split archives as Info-ZIP does, so that tests need no `zip`: offsets count within each part."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

MARK = b"PK\x07\x08"


def whole_archive(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive in one piece."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def split_archive(
    files: Mapping[str, bytes], part_size: int, zip64: bool = False, method: int = zipfile.ZIP_STORED
) -> list[bytes]:
    """The parts of a split archive, the last of which would be called `.zip`.

    Args:
        files: contents by name.
        part_size: bytes of each part.
        zip64: write the 64-bit records, as for archives of more than 4 GB.
        method: of compression.
    """
    archive = zipfile.ZipFile(io.BytesIO(whole_archive(files, method)))
    infos = archive.infolist()
    plain = archive.fp.getvalue() if isinstance(archive.fp, io.BytesIO) else b""
    entries = MARK + plain[: archive.start_dir]
    directory = b"".join(directory_entry(info, part_size, zip64) for info in infos)
    start = len(entries)
    whole = entries + directory
    parts = [whole[first : first + part_size] for first in range(0, len(whole), part_size)]
    disk, offset = divmod(start, part_size)
    last = len(parts) - 1
    end = b""
    if zip64:
        counts = (len(infos), len(infos), len(directory), offset)
        end += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, last, disk, *counts)
        end += struct.pack("<4sLQL", b"PK\6\7", last, len(parts[-1]), len(parts))
        disk, last, offset = 0xFFFF, 0xFFFF, 0xFFFFFFFF
    counts = (len(infos), len(infos), len(directory), offset)
    end += struct.pack("<4s4H2LH", b"PK\5\6", last, disk, *counts, 0)
    # No part may begin within these records, so the last part takes all of them.
    parts[-1] += end
    return parts


def directory_entry(info: zipfile.ZipInfo, part_size: int, zip64: bool) -> bytes:
    """One entry of the directory."""
    disk, offset = divmod(info.header_offset + len(MARK), part_size)
    sizes, extra = (info.compress_size, info.file_size), b""
    if zip64:
        extra = struct.pack("<HH3QL", 1, 28, info.file_size, info.compress_size, offset, disk)
        sizes, offset, disk = (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, 0xFFFF
    name = info.filename.encode()
    head = struct.pack(
        "<4s6H3L5H2L",
        *(b"PK\1\2", 0x0314, 20, info.flag_bits, info.compress_type, 0, 0x21, info.CRC, *sizes),
        *(len(name), len(extra), 0, disk, 0, info.external_attr, offset),
    )
    return head + name + extra
