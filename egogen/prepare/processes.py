"""Work side by side, a process for each piece: a decoder that crashes takes one video with it, no more."""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess, SpawnProcess
from threading import Thread
from typing import Generic, TypeVar

from egogen.errors import UserError

Task = TypeVar("Task")
log = logging.getLogger(__name__)


class Running(Generic[Task]):
    """A piece of work, its process, and when it last gave a sign of life."""

    def __init__(self, task: Task, process: ForkProcess | SpawnProcess, sign: object) -> None:
        self.task, self.process, self.sign, self.since = task, process, sign, time.monotonic()

    def look(self, sign: object, patience: float) -> None:
        """Kills a process that gave no sign for so long; a decoder that hangs may hear no gentler signal."""
        if sign != self.sign:
            self.sign, self.since = sign, time.monotonic()
        elif time.monotonic() - self.since > patience:
            log.warning("a process got nothing done for %g s and is ended", patience)
            self.process.kill()


def spread(
    work: Callable[[Task], None],
    tasks: Iterable[Task],
    processes: int,
    patience: float = math.inf,
    sign: Callable[[Task], object] = id,
) -> Iterator[tuple[Task, int]]:
    """Runs `work(task)` for all tasks, so many at a time, each in a process of its own.

    Args:
        work: a piece of it.
        tasks: what it is called with.
        processes: at a time.
        patience: seconds without a sign of life after which a process is killed.
        sign: what changes while a task gets on.

    Yields:
        Each task when its process has ended, with 0 or, where a signal ended it, the number of that.

    Raises:
        UserError: a piece of work failed, as the log says (disk full, no permission).
    """
    # Forked processes start at once and need no importable main module; only on Linux is forking safe.
    forks = sys.platform == "linux"
    start = (
        multiprocessing.get_context("fork").Process if forks else multiprocessing.get_context("spawn").Process
    )
    waiting = deque(tasks)
    running: dict[object, Running[Task]] = {}
    pause = None if math.isinf(patience) else min(1.0, patience / 4)
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                task = waiting.popleft()
                process = start(target=alone, args=(work, task), daemon=True)
                process.start()
                running[process.sentinel] = Running(task, process, sign(task))
            for sentinel in wait([each.process.sentinel for each in running.values()], pause):
                ended = running.pop(sentinel)
                ended.process.join()
                code = ended.process.exitcode or 0
                if code > 0:
                    raise UserError(
                        "a process failed, as said above; when that is mended, run the command again"
                    )
                yield ended.task, -code
            for each in running.values():
                each.look(sign(each.task), patience)
    finally:
        for each in running.values():
            each.process.terminate()
            each.process.join()


def alone(work: Callable[[Task], None], task: Task) -> None:
    """What a process does: Ctrl-C is for its parent, and without that it ends."""
    # What the parent has left behind is not collected here: the end of a decoder waits for threads that only
    # the parent has.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with_parent, daemon=True).start()
    try:
        work(task)
    except (UserError, OSError) as error:
        log.error("error: %s", error)
        raise SystemExit(1) from None


def end_with_parent() -> None:
    """Waits for the parent's end, however it came, and ends this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
