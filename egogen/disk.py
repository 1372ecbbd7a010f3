"""Room on a disk: asked for before something large is written, and what is said when it runs out."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egogen.errors import UserError, reason

# What a disk should keep free besides.
SPARE_BYTES = 64 * 2**20
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# A full disk, a quota, and the longest file that the system or `ulimit -f` allows.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The same in libraries' own errors: torch's zip writer, safetensors, SQLite, NumPy.
HIDDEN = re.compile(
    r"PytorchStreamWriter|inline_container|\(os error (28|122|27)\)|No space left|Disk quota exceeded"
    r"|File too large|disk is full|\d requested and \d+ written"
)


def readable(size: int) -> str:
    """A number of bytes in decimal units: `7.8 GB`."""
    if size < 1000:
        return f"{size} B"
    value, unit = float(size), 0
    while value >= 999.95 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}"


def free_bytes(path: Path) -> int:
    """What is free on the disk of a path, which need not exist yet."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def require_space(folder: Path, needed: int, what: str, spare: int = SPARE_BYTES) -> None:
    """Sees to it that `needed` more bytes fit on the disk of a folder, which need not exist yet.

    Args:
        folder: where they go.
        needed: bytes.
        what: names them in the message.
        spare: bytes that are to stay free besides.

    Raises:
        UserError: they do not fit; names the sizes.
    """
    free = free_bytes(folder)
    if needed and needed + spare > free:
        besides = f" and {readable(spare)} to spare" if spare else ""
        raise UserError(
            f"{folder}: {what} needs {readable(needed)}{besides}, the disk has {readable(free)} free; "
            "free some room or choose a folder on another disk"
        )


def reserve(path: Path) -> None:
    """Has the system keep room for the whole of a file that is written through memory.

    A full disk is an error then; later, it would end the process by a signal.
    """
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def full(error: BaseException) -> BaseException | None:
    """The error that tells of a full disk, if one does: this one, or one that it covers up."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    plain = [each for each in chain if isinstance(each, OSError) and each.errno is not None]
    told = [each for each in plain if each.errno in FULL]
    hidden = [each for each in chain if isinstance(each, Exception) and HIDDEN.search(f"{each}")]
    known = plain or any(not isinstance(each, Exception) for each in chain)  # Ctrl-C inside torch's writer
    return next(iter(told or (hidden if not known else ())), None)


def no_room(path: Path, error: BaseException, written: int = 0, needed: int = 0) -> UserError | None:
    """What to tell a user whose disk is full; None if the error tells of something else.

    Args:
        path: the file that is not written, or the folder that it belongs to.
        error: what the writer raised.
        written: bytes of the file that did fit.
        needed: bytes of the file, where they are known.
    """
    cause = full(error)
    if cause is None:
        return None
    needs = f"it needs more than {readable(written)}, " if written else ""
    needs = f"it needs {readable(needed)}, " if needed else needs
    return UserError(
        f"{path}: not written ({reason(cause)[:200]}); {needs}the disk has "
        f"{readable(free_bytes(path))} free. Free some room or choose a folder on another disk"
    )


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Makes one line of a full disk while a file, or what a folder holds, is written.

    Args:
        path: the file or folder.
        needed: its bytes, where they are known.

    Raises:
        UserError: there is no room; names the path, what it needs and what is free.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (told := no_room(path, error, needed=needed)) is not None:
            raise told from None
        raise
