"""Runs a command that takes shards as N tasks of a Ray cluster, each with its GPUs.

A task is a process of `COMMAND --shard auto`: the tasks claim one shard after the other, so one that ends
well says that all is done, whatever became of the others. What dies with a node begins again elsewhere.
Without --address, a cluster of this machine alone is started for it. The command runs in the root of the
checkout, which all nodes see under the same path, with the variables of this process, keys apart.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError, reason
from egogen.shards import AUTO, AUTO_SHARDS, MOST_SHARDS
from egogen.told_command import is_secret

PROG = "python scripts/ray_job.py"
EXAMPLE = f"{PROG} 8 -- python -m ldm.sample --config configs/generate_ego4d.yaml --ckpt last.ckpt"
LOCAL = "local"  # Ray's word for a cluster that it starts
STORE = 100 * 2**20  # bytes of shared memory for what tasks hand over: nothing
# Runs a command in place of itself; where its parent ends, however it ends, the system ends it too.
BOUND = """
import ctypes, os, signal, sys
parent = os.getppid()
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == parent:
    os.execvp(sys.argv[1], sys.argv[1:])
"""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayOptions:
    """The command line up to `--`."""

    count: int = flag("tasks, each a process", positional=True, type=cli.workers, metavar="N")
    num_gpus: float = flag("GPUs of a task; 0 for none, 0.5 for two tasks on one", type=float, default=1.0)
    num_cpus: float = flag("CPUs of a task", type=float, default=1.0)
    retries: int = flag("how often a task that dies is started again", type=int, default=3)
    shards: int | None = flag(f"shards that the tasks claim [{AUTO_SHARDS}, or 4 a task]", type=int)
    env: str | None = flag(
        "environment of the command [that of its module, or this one]",
        choices=sorted(cli.ENVIRONMENTS.values()),
    )
    address: str | None = flag(
        "of a running cluster: HOST:PORT, or auto for that of this machine [RAY_ADDRESS, else one is started]"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.num_gpus < cli.MOST_WORKERS:
            raise argparse.ArgumentTypeError(f"--num-gpus: found {self.num_gpus}, expected 0 or more")
        if not 0 < self.num_cpus < cli.MOST_WORKERS:
            raise argparse.ArgumentTypeError(f"--num-cpus: found {self.num_cpus}, expected more than 0")
        if not 0 <= self.retries < cli.MOST_WORKERS:
            raise argparse.ArgumentTypeError(f"--retries: found {self.retries}, expected 0 or more")
        if self.shards is not None and not self.count <= self.shards <= MOST_SHARDS:
            raise argparse.ArgumentTypeError(
                f"--shards: found {self.shards}, expected {self.count} (a shard a task) to {MOST_SHARDS}"
            )

    def task(self, command: Sequence[str]) -> list[str]:
        """The words of a task."""
        shards = self.shards or max(AUTO_SHARDS, 4 * self.count)
        words = [*command, "--shard", f"{AUTO}/{shards}"]
        environment = self.env or cli.environment_of(command)
        if not environment and any(word.startswith("egogen.") for word in command[2:3]):
            # Which a worker's own Python may lack.
            environment = cli.own_environment()
        if environment and checkout():
            return ["bash", "scripts/run.sh", environment, *words]
        return words


def checkout() -> Path | None:
    """The root of the checkout that this is part of; None for packages that were installed from a wheel."""
    root = Path(__file__).absolute().parents[1]
    return root if (root / "scripts" / "run.sh").is_file() else None


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the tasks; exit code 0 if all shards are done, else the highest of theirs, 1 for one that died."""
    words = sys.argv[1:] if argv is None else list(argv)
    place = words.index("--") if "--" in words else len(words)
    options = cli.options(RayOptions, words[:place], PROG, __doc__, f"Behind -- the command: {EXAMPLE}")
    command = words[place + 1 :]
    if not command:
        raise UserError(f"no command; it stands behind --, as in: {EXAMPLE}")
    if any(word.partition("=")[0] == "--shard" for word in command):
        raise UserError("the command has --shard already; this one adds it")
    code = run(options, options.task(command))
    if code:
        cli.tell("error: no task could finish the run; what they said is above. The same command goes on")
        raise SystemExit(code)
    log.info("all shards are done")


def run(options: RayOptions, command: list[str]) -> int:
    """Runs a command as tasks of Ray and waits for them.

    Returns:
        0 if one has ended well, so that all shards are done; else the highest code, 1 for a task that died.

    Raises:
        UserError: there is no Ray, no such cluster, or no room in it.
    """
    with cluster(options) as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray may be in another environment
        task = ray.remote(
            num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_retries=options.retries,
            retry_exceptions=[ChildProcessError], scheduling_strategy="SPREAD",
        )(run_task)  # fmt: skip
        variables = handed(os.environ)
        names = [f"task {number}/{options.count}" for number in range(1, options.count + 1)]
        folder = f"{checkout() or Path.cwd()}"
        tasks = {task.options(name=name).remote(name, command, variables, folder): name for name in names}
        return wait_for(ray, tasks)


def wait_for(ray: Any, tasks: dict[Any, str]) -> int:  # noqa: ANN401 - a library that may not be there
    """Waits for tasks, by their names; the exit code of `run`."""
    worst, waiting = 0, [*tasks]
    done = False
    while waiting:
        (ended,), waiting = ray.wait(waiting, num_returns=1)
        try:
            code = ray.get(ended)
        except ray.exceptions.TaskCancelledError:
            continue
        except ray.exceptions.RayError as error:
            log.warning("%s died, and is not started again: %s", tasks[ended], reason(error))
            code = 1
        if code:
            log.warning("%s ended with code %d; the others go on", tasks[ended], code)
        elif not done:
            done = True
            for each in waiting:  # drops those that have not begun; who has begun ends by itself
                ray.cancel(each)
        worst = max(worst, code)
    return 0 if done else worst


def run_task(name: str, command: list[str], variables: dict[str, str], folder: str) -> int:
    """Runs a command to its end in a worker of Ray; it travels as code, and needs the standard library alone.

    Returns:
        Its exit code: 0, or 2 for a mistake of the user, which another try would meet again.

    Raises:
        ChildProcessError: it was killed or has crashed; another try may go well.
    """
    host = os.uname().nodename
    sys.stderr.write(f"{name} begins on {host}\n")
    words = [sys.executable, "-c", BOUND, *command]
    child = subprocess.Popen(  # noqa: S603 - what the user has asked for
        words, cwd=folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL
    )
    while child.returncode is None:
        try:
            child.wait()
        except KeyboardInterrupt:  # Ray's way to drop a task; all is done then, and the process about to end
            continue
    if child.returncode not in (0, 2):
        raise ChildProcessError(f"{name} on {host} ended with code {child.returncode}")
    return child.returncode


def handed(variables: Any) -> dict[str, str]:  # noqa: ANN401 - of `os.environ`
    """The variables of this process that tasks are given: no keys, nothing that Ray says to a worker."""
    own = ("RAY_", "CUDA_VISIBLE_DEVICES")
    return {
        name: text for name, text in variables.items() if not is_secret(name) and not name.startswith(own)
    }


@contextmanager
def cluster(options: RayOptions) -> Iterator[Any]:
    """Ray, connected to a running cluster or to one of this machine that ends with the block.

    Raises:
        UserError: there is no Ray, no such cluster, or none of its nodes has what a task needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            f"no Ray in {sys.prefix}; install it by: {sys.executable} -m pip install 'ray[default]'"
        ) from None
    address = options.address or os.environ.get("RAY_ADDRESS") or LOCAL
    own = {"object_store_memory": STORE, "include_dashboard": True} if address == LOCAL else {}
    try:
        context = ray.init(address, logging_level=logging.WARNING, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray at {address}: no connection ({reason(error)})") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray's own handler aborts
    try:
        log.info("Ray %s at %s; dashboard: %s", ray.__version__, address, shown(context.dashboard_url))
        check_room(ray.nodes(), options, fixed=address == LOCAL)
        yield ray
    finally:
        ray.shutdown()


def shown(url: str | None) -> str:
    """The address of a dashboard."""
    return f"http://{url}" if url else "none (it needs ray[default])"


def check_room(nodes: Sequence[dict[str, Any]], options: RayOptions, fixed: bool) -> None:
    """Sees to it that a task fits on some node; a cluster that is not `fixed` may still grow one.

    Raises:
        UserError: it fits on none.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    needs = {"GPU": options.num_gpus, "CPU": options.num_cpus}
    if any(all(room.get(kind, 0) >= need for kind, need in needs.items()) for room in rooms):
        return
    there = ", ".join(f"{room.get('GPU', 0):g} GPUs and {room.get('CPU', 0):g} CPUs" for room in rooms)
    line = (
        f"a task needs {options.num_gpus:g} GPUs and {options.num_cpus:g} CPUs, and the nodes have {there}; "
        "choose others by --num-gpus and --num-cpus"
    )
    if fixed:
        raise UserError(line)
    log.warning("%s, or wait for such a node", line)


if __name__ == "__main__":
    cli.run(main)
