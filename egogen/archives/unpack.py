"""Unpacks zip archives of strangers: the whole directory is judged before the first file is written.

Refused are names that lead out of the folder, links, encrypted entries, two files of one name, and archives
that would unpack to far more than they weigh (zip bombs). What is there already stays if it is the same.
"""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from egogen.annotations import check_relative
from egogen.archives.split_zip import joined
from egogen.disk import readable, require_space
from egogen.errors import UserError, reason
from egogen.files import atomic_open
from egogen.progress import Progress

# Says where an entry goes; None leaves it out.
Place = Callable[[PurePosixPath], "Path | None"]

# Frames and features, packed already or noise, shrink by less than 2; zeros by 1000.
MAX_RATIO = 100
SMALL_BYTES = 16 * 2**20
MAX_ENTRIES = 2_000_000
# What zipfile raises for damaged or unknown content.
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
ENCRYPTED = 1
LOCAL_HEADER = 30  # bytes before an entry's name and content (APPNOTE.TXT, section 4.3.7)


class Unpacked(NamedTuple):
    """How many files were written, were there already, and were left out."""

    written: int
    kept: int
    left_out: int


def unpack(parts: Sequence[Path], folder: Path, place: Place) -> Unpacked:
    """Unpacks an archive; a second run goes on where the first stopped.

    Args:
        parts: its files in reading order.
        folder: where it unpacks to, for the room that is needed there.
        place: says where each entry goes.

    Raises:
        UserError: the archive is damaged or unsafe, does not fit on the disk, or other bytes are in its way.
    """
    path = parts[-1]
    try:
        with joined(parts) as whole, zipfile.ZipFile(whole) as archive:
            entries = archive.infolist()
            check_directory(entries, sum(part.stat().st_size for part in parts), path)
            targets = choose_targets(entries, place, path)
            missing = sum(entry.file_size for entry, target in targets if not target.exists())
            require_space(folder, missing, f"unpacking {path.name}")
            written = 0
            for entry, target in Progress(targets, desc=path.name, unit="file"):
                written += extract(archive, entry, target, path)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: not a whole zip archive ({error}); fetch it again") from None
    files = sum(not entry.is_dir() for entry in entries)
    return Unpacked(written, len(targets) - written, files - len(targets))


def check_directory(entries: Sequence[zipfile.ZipInfo], size: int, path: Path) -> None:
    """Refuses an archive that could do harm, by what its directory says.

    Args:
        entries: the directory.
        size: bytes of the archive.
        path: the file that errors name.
    """
    if len(entries) > MAX_ENTRIES:
        raise UserError(f"{path}: holds {len(entries)} entries, more than the {MAX_ENTRIES} allowed")
    for entry in entries:
        if fault := entry_fault(entry):
            raise UserError(f"{path}: the entry {entry.filename!r} {fault}; nothing was unpacked")
    unpacked = sum(entry.file_size for entry in entries)
    ends = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        apart = entry.header_offset >= ends
        ends = entry.header_offset + LOCAL_HEADER + entry.compress_size
        if not apart or ends > size:
            raise UserError(
                f"{path}: its entries overlap or reach behind its end, as a zip bomb's; nothing was unpacked"
            )
    if unpacked > SMALL_BYTES + MAX_RATIO * size:
        raise UserError(
            f"{path}: would unpack from {readable(size)} to {readable(unpacked)}, as a zip bomb does "
            f"(allowed is {MAX_RATIO} times its size); nothing was unpacked"
        )


def entry_fault(entry: zipfile.ZipInfo) -> str | None:
    """What is unsafe about an entry, if anything."""
    try:
        check_relative(entry.orig_filename.rstrip("/"))
    except ValueError as error:
        return str(error)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device; allowed are files and folders"
    return "is encrypted" if entry.flag_bits & ENCRYPTED else None


def choose_targets(
    entries: Sequence[zipfile.ZipInfo], place: Place, path: Path
) -> list[tuple[zipfile.ZipInfo, Path]]:
    """The files to unpack and where to."""
    targets: dict[Path, zipfile.ZipInfo] = {}
    for entry in entries:
        target = None if entry.is_dir() else place(PurePosixPath(entry.filename))
        if target in targets:
            raise UserError(
                f"{path}: {targets[target].filename!r} and {entry.filename!r} are both {target}; "
                "nothing was unpacked"
            )
        if target is not None:
            targets[target] = entry
    return [(entry, target) for target, entry in targets.items()]


def extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: Path) -> bool:
    """Writes one file and checks its sum; returns whether it had to be written."""
    try:
        if target.exists():
            if target.stat().st_size == entry.file_size and crc(target) == entry.CRC:
                return False
            if not is_cut_off(archive, entry, target):
                raise UserError(f"{target}: there already, with other bytes than in {path}; move it away")
        with archive.open(entry) as source, atomic_open(target) as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({reason(error)})") from None
    return True


def is_cut_off(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> bool:
    """Whether a file is only the beginning of what it should be, as a crash of the machine may leave it."""
    size = target.stat().st_size
    if size >= entry.file_size:
        return False
    with archive.open(entry) as source:
        return source.read(size) == target.read_bytes()


def crc(path: Path) -> int:
    """The checksum that zip keeps of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
