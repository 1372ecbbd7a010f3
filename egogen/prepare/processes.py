"""Work side by side, a process for each piece: a decoder that crashes takes one video with it, no more."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess, SpawnProcess
from threading import Thread
from typing import TypeVar

from egogen.errors import UserError

Task = TypeVar("Task")
log = logging.getLogger(__name__)


def spread(work: Callable[[Task], None], tasks: Iterable[Task], processes: int) -> Iterator[tuple[Task, int]]:
    """Runs `work(task)` for all tasks, so many at a time, each in a process of its own.

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
    running: dict[object, tuple[Task, ForkProcess | SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                task = waiting.popleft()
                process = start(target=alone, args=(work, task), daemon=True)
                process.start()
                running[process.sentinel] = task, process
            for sentinel in wait([process.sentinel for _, process in running.values()]):
                task, process = running.pop(sentinel)
                process.join()
                code = process.exitcode or 0
                if code > 0:
                    raise UserError(
                        "a process failed, as said above; when that is mended, run the command again"
                    )
                yield task, -code
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def alone(work: Callable[[Task], None], task: Task) -> None:
    """What a process does: Ctrl-C is for its parent, and without that it ends."""
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
