"""One process at a time on what a command writes: a hidden lock file beside it, which names its owner."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from egogen.errors import UserError, reason
from egogen.files import clean_parts
from egogen.told_command import told_command
from egogen.unfinished import clean_near

# No folder of that name can be: a file is in its way, or the name is too long.
IMPOSSIBLE = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
LONGEST_COMMAND = 200  # letters of it that a message shows
log = logging.getLogger(__name__)


class HeldError(UserError):
    """Another process holds what is to be written."""


@contextmanager
def hold(path: Path, what: str, part: str = "", *, wait: bool = False, deep: bool = True) -> Iterator[None]:
    """Keeps other processes from a file or folder while the block runs.

    The system drops the lock of a process that ends, however it ends; a file that a killed one leaves hinders
    nobody. Where there are no locks (some network file systems), a warning says so and the block runs. What
    ended runs left unfinished in the folder, or of the file, goes first.

    Args:
        path: what is written; need not exist. Its lock is `.NAME.lock` beside it, gone afterwards.
        what: names the work in messages, such as `describing`.
        part: the share of it that is held, such as `shard_1_of_2`; others may go on beside it.
        wait: wait for the other process instead of refusing.
        deep: look for unfinished files everywhere below a folder, not only in it and the folders in it.

    Raises:
        HeldError: another process holds it; names that.
        UserError: nothing can be written there.
    """
    place = path.resolve()
    file = place.parent / f".{place.name}{part and '.'}{part}.lock"
    lock = FileLock(file, fallback_to_soft=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        acquire(lock, path, f"{what} ({part})" if part else what, wait)
        file.write_text(json.dumps(note()), encoding="utf-8")
    except OSError as error:
        if error.errno in IMPOSSIBLE:
            raise UserError(f"{path}: cannot be written ({reason(error)})") from None
        unlocked(file.parent, reason(error))
    try:
        if place.is_dir():
            (clean_parts if deep else clean_near)(place)
        else:
            clean_parts(place.parent, f".{glob.escape(place.name)}.*.part")
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # a disk that is read-only by now: the file hinders nobody
                file.unlink(missing_ok=True)  # while it is ours: who waits for it makes a new one
            lock.release()


def acquire(lock: FileLock, path: Path, what: str, wait: bool) -> None:
    """Takes a lock at once or, with `wait`, when it is free.

    Raises:
        HeldError: another process holds it, and nobody wants to wait.
        UserError: no lock can be made there.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not Path(lock.lock_file).exists() and not can_write(Path(lock.lock_file).parent):
            raise UserError(f"{path}: cannot be written (no file can be made in its folder)") from None
        other = owner(Path(lock.lock_file))
        if not wait:
            raise HeldError(
                f"{path}: {what} is under way in {other}; let it end or end it, or choose another folder"
            ) from None
        log.info("%s: %s is under way in %s; waiting for it", path, what, other)
        lock.acquire(poll_interval=0.5)


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder; of some (/proc) `filelock` only says that it has no lock."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def note() -> dict[str, str | int]:
    """What a lock file tells of the process that holds it."""
    command = shlex.join([Path(sys.executable).name, *told_command(sys.orig_argv[1:])])
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}


def owner(file: Path) -> str:
    """The process that a lock file names, in words."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        command = " ".join(str(told["command"]).split())[:LONGEST_COMMAND]
        return f"process {told['pid']} on {told['host']} since {told['since']} ({command})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # just begun, or just ended
        return "another process"


@cache
def unlocked(folder: Path, why: str) -> None:
    """Says once a folder that nothing guards it."""
    log.warning("%s: no lock (%s); see to it that no second process writes there", folder, why)
