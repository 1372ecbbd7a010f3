"""Shards as arrays of Slurm's own daemons; a task is killed and requeued: the result of one process.

slurmctld, slurmd and munged run for these tests alone, as root, on this machine as a node of two slots.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toy_work import ToyWork, files, wait_until
from tests.workbench import ROOT

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin"
LACKING = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(LACKING), reason=f"no {', '.join(LACKING)} here (Debian: apt-get install slurm-wlm munge)"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started by root"),
]
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """A cluster of this machine alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": f"{root / 'slurm.conf'}"}

    def start(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.root / name).mkdir(mode=0o700)
        host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(host=host, root=self.root, ports=free_ports(2))
        (self.root / "slurm.conf").write_text(config)
        munge = self.root / "munge"
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o600)
        names = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self.daemon("munged", "-F", "--force", *(f"--{flag}={munge / name}" for flag, name in names.items()))
        wait_until((munge / "socket").exists, "munged is up", 30)
        self.daemon("slurmctld", "-D", "-i")
        self.daemon("slurmd", "-D")
        wait_until(
            lambda: self.says("sinfo", "--noheader", "--format=%t").strip() == "idle", "a node is idle", 60
        )

    def daemon(self, *words: str) -> None:
        bound = ("setpriv", "--pdeathsig", "TERM")  # it ends with the tests, however they end
        with (self.root / f"{words[0]}.out").open("wb") as out:
            self.running.append(
                subprocess.Popen(
                    [*bound, *words], env=self.environment, stdout=out, stderr=out, start_new_session=True
                )
            )

    def stop(self) -> None:
        self.says("scancel", "--full", "--user=root")
        for process in reversed(self.running):
            process.terminate()
            process.wait(30)

    def says(self, *command: str) -> str:
        """What a command of Slurm says; nothing where it fails."""
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return ran.stdout

    def array(self, work: ToyWork, *words: str) -> subprocess.Popen[str]:
        """Starts scripts/slurm_array.sh and waits for it."""
        return subprocess.Popen(
            ["bash", "scripts/slurm_array.sh", "--wait", *words],
            cwd=ROOT, env={**self.environment, **work.environment}, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # as in a step of scripts/steps.sh, which ends all of its processes
        )  # fmt: skip

    def wait_for_all(self) -> None:
        wait_until(lambda: not self.says("squeue", "--noheader").strip(), "the queue is empty")

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.says("scontrol", "show", "job", job))
        return found[1] if found else ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    made = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> ToyWork:
    return ToyWork(tmp_path_factory.mktemp("work")).make()


def number_of(array: subprocess.Popen[str]) -> str:
    assert array.stdout is not None
    return array.stdout.readline().split()[-1]


def kill_and_requeue(slurm: Slurm, job: str, claims: Path, made: Path, kind: str, total: int) -> None:
    """Kills the process of an array's second task half-way, begins the task anew, and waits for the end."""
    claim = claims / ".shards" / "2_of_2.claim"
    wait_until(lambda: claim.exists() and len(files(made, kind)) >= 3, "two tasks are at work")
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    assert len(files(made, kind)) < total
    wait_until(lambda: slurm.state(f"{job}_2") == "FAILED", "the task is seen to have failed", 60)
    subprocess.run(["scontrol", "requeue", f"{job}_2"], env=slurm.environment, check=True)
    slurm.wait_for_all()


def test_an_array_draws_what_one_process_draws(slurm: Slurm, work: ToyWork) -> None:
    whole, shared = work.root / "whole", work.root / "shared"
    work.run("bash", "scripts/run.sh", "ldm", *work.draw(whole))
    expected = files(whole / "images", "jpg")
    assert len(expected) == 8
    array = slurm.array(work, "--env", "ldm", "2", *work.draw(shared))
    kill_and_requeue(slurm, number_of(array), shared, shared / "images", "jpg", 8)
    assert array.wait(60) == 0
    assert files(shared / "images", "jpg") == expected
    status = subprocess.run(
        ["bash", "scripts/run.sh", "ldm", "python", "-m", "egogen.status", f"{shared}"],
        cwd=ROOT, env=work.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert status.stdout == f"{shared}: 2 shards, 2 whole\n"
    logs = [path.read_text() for path in (work.root / "runs" / "slurm").glob("*_2.log")]
    assert re.search(r"4 frames, [1-3] of them are there already", "".join(logs))


def test_an_array_describes_what_one_process_describes(slurm: Slurm, work: ToyWork) -> None:
    whole, shared = work.root / "one", work.root / "two"
    work.run("bash", "scripts/run.sh", "vllm", *work.describe(whole))
    expected = files(whole, "npy")
    assert len(expected) == 16
    array = slurm.array(work, "--env", "vllm", "2", *work.describe(shared))
    kill_and_requeue(slurm, number_of(array), shared / "texts", shared / "llava_text", "npy", 8)
    assert array.wait(60) == 0
    assert files(shared, "npy") == expected
    assert texts(shared) == texts(whole)


def texts(out: Path) -> dict[str, dict[str, object]]:
    """Descriptions of all parts."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted((out / "texts").glob("*_of_*.json")):
        for clip, actions in json.loads(path.read_text()).items():
            found.setdefault(clip, {}).update(actions)
    return found


def test_ctrl_c_leaves_nothing_in_the_queue(slurm: Slurm, work: ToyWork) -> None:
    array = slurm.array(work, "4", "bash", "-c", "sleep 60")
    job = number_of(array)
    wait_until(lambda: slurm.state(f"{job}_1") == "RUNNING", "a task runs", 60)
    os.killpg(array.pid, signal.SIGINT)
    assert array.wait(60) == 130
    slurm.wait_for_all()
