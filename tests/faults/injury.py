"""What is done to a command while it runs, at a point with a number: its n-th change of the output folder.

An audit hook hears of every file that Python opens for writing, renames, makes or removes, also in processes
that the command forks, just before it happens. So a fault comes at the same place each time, and 20 places
spread over a run are 20 numbers.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import forked

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.link", "os.symlink", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
FOREVER = 3600.0
SECOND_SIGNAL = 0.02  # seconds after the first


@dataclass(frozen=True)
class Injury:
    """What happens, and when.

    Args:
        kind: a name of `HARMS`; "none" only counts.
        at: the number of the change before which it happens, from 1.
        count: file that holds the number of changes.
        out: folder whose changes count.
        reads: part of a path; what is done to a worker process happens when it opens such a file.
    """

    kind: str
    at: int
    count: Path
    out: Path
    reads: str = ""


class Hook:
    """Counts the changes and does the harm."""

    def __init__(self, injury: Injury) -> None:
        self.injury, self.main, self.busy = injury, os.getpid(), False
        injury.count.write_bytes(bytes(8))
        with injury.count.open("r+b") as file:
            self.counter = mmap.mmap(file.fileno(), 8)  # shared with forked processes
        self.out = f"{injury.out}"
        self.noted = os.open(injury.count.with_suffix(".events"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.busy or event not in CHANGES or not args or isinstance(args[0], int):
            return
        path = os.fsdecode(args[0])  # type: ignore[arg-type]
        changes = event != "open" or int(args[2]) & WRITES  # type: ignore[call-overload]
        self.busy = True  # what the harm itself opens does not count
        try:
            if self.injury.reads and os.getpid() != self.main and self.injury.reads in path:
                WORKERS[self.injury.kind]()
            elif changes and path.startswith(self.out):
                number = self.next()
                os.write(self.noted, f"{event}\n".encode())
                HARMS[self.injury.kind](self, number, path, event)
        finally:
            self.busy = False

    def next(self) -> int:
        (number,) = struct.unpack("q", self.counter[:8])
        self.counter[:8] = struct.pack("q", number + 1)
        return int(number) + 1


Harm = Callable[[Hook, int, str, str], None]


def once(harm: Callable[[Hook], None]) -> Harm:
    """A harm at one change alone."""

    def done(hook: Hook, number: int, path: str, event: str) -> None:
        del path, event
        if number == hook.injury.at:
            harm(hook)

    return done


def kill(hook: Hook) -> None:
    del hook
    os.killpg(0, signal.SIGKILL)
    time.sleep(FOREVER)


def terminate(hook: Hook) -> None:
    os.kill(hook.main, signal.SIGTERM)


def interrupt_twice(hook: Hook) -> None:
    """As a person who presses Ctrl-C again because the first seems to do nothing."""
    second = threading.Timer(SECOND_SIGNAL, os.kill, (hook.main, signal.SIGINT))
    second.daemon = True
    second.start()
    os.kill(hook.main, signal.SIGINT)


def pause(hook: Hook) -> None:
    """Waits until the test says go on."""
    mark = hook.injury.count
    mark.with_suffix(".paused").touch()
    end = time.monotonic() + 120
    while not mark.with_suffix(".go").exists() and time.monotonic() < end:
        time.sleep(0.005)


def no_memory(hook: Hook) -> None:
    """From now on the process gets next to no more memory."""
    del hook
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**18,) * 2)


def failing(code: int, *, after: bool = True, events: frozenset[str] = frozenset(CHANGES)) -> Harm:
    """The system refuses changes with an error: this one, and with `after` all that come after it."""

    def refuse(hook: Hook, number: int, path: str, event: str) -> None:
        due = number >= hook.injury.at if after else number == hook.injury.at
        if due and event in events:
            raise OSError(code, os.strerror(code), path)

    return refuse


def nothing(hook: Hook, number: int, path: str, event: str) -> None:
    del hook, number, path, event


GROWTH = frozenset({"open", "os.mkdir", "os.link", "os.symlink"})  # what needs room
HARMS: dict[str, Harm] = {
    "none": nothing,
    "kill": once(kill),
    "terminate": once(terminate),
    "interrupt twice": once(interrupt_twice),
    "pause": once(pause),
    "no memory": once(no_memory),
    "disk full": failing(errno.ENOSPC, events=GROWTH),
    "quota": failing(errno.EDQUOT, events=GROWTH),
    "read-only": failing(errno.EROFS),
    "input/output error": failing(errno.EIO, after=False),
    "small files": nothing,
    "worker dies": nothing,
    "worker hangs": nothing,
}
WORKERS: dict[str, Callable[[], None]] = {
    "worker dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "worker hangs": lambda: time.sleep(FOREVER),
}


def hurt(
    injury: Injury, largest: int, prelude: Callable[[], None] | None, module: str, argv: list[str]
) -> None:
    """Runs a command with the harm; what a test starts in a process of its own.

    Args:
        injury: the harm.
        largest: bytes that no file may grow beyond; 0 for no limit.
        prelude: called before the command.
        module: as `forked.command` takes it.
        argv: likewise.
    """
    if prelude is not None:
        prelude()
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest,) * 2)
    sys.addaudithook(Hook(injury))
    forked.command(module, argv)
