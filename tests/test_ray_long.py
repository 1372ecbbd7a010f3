"""Shards as tasks of Ray on two nodes, of which one is killed half-way: the result of one process."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toy_work import ToyWork, files, wait_until
from tests.workbench import ROOT

pytestmark = [pytest.mark.long, pytest.mark.slow]
# Workers are as important as what else runs here; Ray's own habit is to let all others go first.
ENVIRONMENTS = {"describe": "vllm", "measure": "ldm", "prepare": "vllm"}
OF_THE_RUN = re.compile(r"manifest|timing|report|store\.json|details")
HERE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module", autouse=True)
def with_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, text in HERE.items():
            patch.setenv(name, text)
        pytest.importorskip("ray", reason="no Ray in this environment (pip install 'ray[default]')")
        yield


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of this machine, whose head has no room for a task."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> ToyWork:
    return ToyWork(tmp_path_factory.mktemp("work")).make()


@pytest.fixture(scope="module")
def whole(work: ToyWork) -> dict[str, bytes]:
    """The frames of one process."""
    work.run("bash", "scripts/run.sh", "ldm", *work.draw(work.root / "whole"))
    return files(work.root / "whole" / "images", "jpg")


def start(work: ToyWork, log: Path, *words: str, count: int = 2) -> subprocess.Popen[bytes]:
    """Starts scripts/ray_job.py without GPUs."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "scripts/ray_job.py", f"{count}", "--num-gpus", "0", *words],
            cwd=ROOT, env={**work.environment, "PYTHONPATH": f"{ROOT}"}, stdout=out, stderr=out,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip


def ancestors(pid: int) -> list[int]:
    """The processes that a process descends from."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


@pytest.mark.parametrize("count", [2, 1], ids=["two at work", "all that was at work"])
def test_a_killed_node_changes_nothing(
    cluster: Any, work: ToyWork, whole: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    doomed, *_ = [cluster.add_node(num_cpus=1, num_gpus=0) for _ in range(count)]
    raylet = doomed.all_processes["raylet"][0].process.pid
    shared, log = tmp_path / "shared", tmp_path / "log"
    words = ["--shards", "4", "--address", cluster.address, "--", *work.draw(shared)]
    job = start(work, log, *words, count=count)

    def its_process() -> int:
        """That of the doomed node that works on a shard."""
        for claim in (shared / ".shards").glob("*.claim"):
            try:
                pid = int(json.loads(claim.read_text())["pid"])
                if raylet in ancestors(pid):
                    return pid
            except (OSError, ValueError):  # has just begun or ended
                continue
        return 0

    wait_until(lambda: files(shared, "jpg") and its_process(), "a task of the doomed node is at work")
    lost = its_process()
    cluster.remove_node(doomed, allow_graceful=False)
    assert len(files(shared, "jpg")) < len(whole) == 8
    wait_until(lambda: not Path(f"/proc/{lost}").exists(), "its process has ended too", 30)
    if count == 1:
        cluster.add_node(num_cpus=1, num_gpus=0)
    assert job.wait(400) == 0, log.read_text()
    assert files(shared / "images", "jpg") == whole
    said = log.read_text()
    assert said.endswith("all shards are done\n")
    # Where another is at work, it may have done all before the lost one can begin again.
    assert said.count(" begins on ") == 2 or count == 2


@pytest.mark.parametrize(
    ("door", "kinds"),
    [
        ("describe", ["json", "npy"]),
        ("measure", ["csv"]),
        ("prepare", ["jpg", "json"]),
    ],
)
def test_other_commands_end_as_one_process(
    work: ToyWork, whole: dict[str, bytes], tmp_path: Path, door: str, kinds: list[str]
) -> None:
    """Each by two tasks: what it writes is what one process writes."""
    assert whole
    one, shared, log = tmp_path / "one" / "run", tmp_path / "shared" / "run", tmp_path / "log"
    if door == "measure":
        for folder in (one, shared):
            shutil.copytree(work.root / "whole", folder)
    command = getattr(work, door)
    work.run("bash", "scripts/run.sh", ENVIRONMENTS[door], *command(one))
    job = start(work, log, "--shards", "3", "--", *command(shared))
    assert job.wait(400) == 0, log.read_text()
    assert log.read_text().endswith("all shards are done\n")
    found, expected = made(shared, kinds), made(one, kinds)
    assert len(expected) > 1
    assert found == expected


def made(folder: Path, kinds: list[str]) -> dict[str, object]:
    """What a command made, without what it says of the run itself; texts of all shards together."""
    found = {name: content for name, content in files(folder, *kinds).items() if not OF_THE_RUN.search(name)}
    texts = [json.loads(found.pop(name)) for name in sorted(found) if name.startswith("texts/")]
    return {**found, "texts": {clip: actions for part in texts for clip, actions in part.items()}}


@pytest.mark.parametrize(
    ("retries", "script", "code", "last"),
    [
        ("3", "echo no such checkpoint; exit 2", 2, "error: no task could finish the run"),
        ("0", "kill -KILL $$", 1, "error: no task could finish the run"),
        ("1", "mkdir one || mkdir two || exit 0; kill -KILL $$", 0, "all shards are done"),
    ],
    ids=["a mistake", "killed each time", "killed twice"],
)
def test_a_cluster_of_its_own(
    work: ToyWork, tmp_path: Path, retries: str, script: str, code: int, last: str
) -> None:
    log = tmp_path / "log"
    job = start(work, log, "--retries", retries, "--", "bash", "-c", f"cd {tmp_path}; {script}")
    assert job.wait(200) == code
    said = log.read_text()
    assert "dashboard: http://127.0.0.1:" in said
    assert said.splitlines()[-1].startswith(last)
    assert 2 <= said.count(" begins on ") <= (2 if code else 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(work: ToyWork, number: signal.Signals) -> None:
    log, pids = work.root / f"ended{number}", work.root / f"pids{number}"
    job = start(work, log, "--", "bash", "-c", f"echo $$ >>{pids}; exec sleep 600")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "both tasks run")
    job.send_signal(number)
    assert job.wait(60) == 130, log.read_text()
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "a task's process has ended", 30)
    session = Path("/tmp/ray/session_latest").resolve()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{session}" not in running
    assert log.read_text().endswith("the same command again to go on\n")
