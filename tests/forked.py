"""Processes that begin at once: forked from a server that has imported a stage's libraries.

As real as one that a shell starts: an own pid, session, environment and folder, nothing of the tests in its
memory; SIGKILL ends it for good. What it spares is importing torch and its kin, ten seconds for each.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from multiprocessing import forkserver, get_context, set_start_method
from pathlib import Path

from egogen.cli import run

CONTEXT = get_context("forkserver")
STAGE_1 = [
    "llava.tuning.run",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # which imports torch's compiler, three seconds
    "llava.describing.describing_loop",
]
STAGE_2 = [
    "ldm.training.run",
    "ldm.metrics.evaluation",
    "ldm.sampling.many_photos",
    "ldm.sampling.drawing_loop",
]
LAST = ["tests.lasting"]
CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class Forked:
    """A process that runs `work(*args)` as a command does.

    Args:
        work: a function of a module, which the process imports.
        args: what it is given.
        log: file for what it prints.
        environment: variables besides those of the tests.
        folder: that it works in.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *args: object,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        serve()
        self.log = log
        variables = {**os.environ, **CPU, **(environment or {})}
        inner = (work, args, variables, str(folder or Path.cwd()), str(log))
        self.process = CONTEXT.Process(target=begin, args=inner)
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the process, and of its session."""
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float = 240) -> int:
        """Waits for its end and gives the exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it did not end: {self.printed}"
        return self.process.exitcode

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text() if self.log.exists() else ""


def serve() -> None:
    """Starts the server, unless it runs; it imports what the environment of the tests is for."""
    before = {name: os.environ.get(name) for name in CPU}
    os.environ.update(CPU)
    try:
        CONTEXT.set_forkserver_preload([*(STAGE_1 if find_spec("deepspeed") else STAGE_2), *LAST])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def begin(
    work: Callable[..., object],
    args: tuple[object, ...],
    variables: Mapping[str, str],
    folder: str,
    log: str,
) -> None:
    """The process's first step: session, folder, environment and output of its own."""
    set_start_method(None, force=True)  # multiprocessing's own, not the one that made this process
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(target, stream)
    run(lambda: work(*args))


def command(module: str, argv: list[str]) -> None:
    """`python -m module argv...`, or a script where it is a path."""
    sys.argv = [module, *argv]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def ranks(count: int) -> list[dict[str, str]]:
    """The variables that torchrun sets for each of `count` processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": f"{count}", "LOCAL_WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1"}
    return [
        {**shared, "MASTER_PORT": f"{port}", "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
        for rank in range(count)
    ]
