"""What a task of Ray runs and how it ends; tests/test_ray_long.py has a cluster. None of these needs Ray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from egogen import ray_job
from egogen.errors import UserError
from egogen.ray_job import RayOptions, check_room, handed, main, run_task
from tests.toy_work import wait_until
from tests.workbench import ROOT

HERE = "vllm" if find_spec("deepspeed") else "ldm"


def options(**given: object) -> RayOptions:
    return RayOptions(**{"count": 2, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [
        ({}, "python -m ldm.sample -x", "bash scripts/run.sh ldm python -m ldm.sample -x --shard auto/64"),
        ({"count": 100}, "python -m llava.describe", "run.sh vllm python -m llava.describe --shard auto/400"),
        ({"env": "vllm"}, "python -m egogen.pack", "run.sh vllm python -m egogen.pack --shard auto/64"),
        ({}, "python -m egogen.pack", f"run.sh {HERE} python -m egogen.pack --shard auto/64"),
        ({"shards": 2}, "bash scripts/describe.sh", "bash scripts/describe.sh --shard auto/2"),
    ],
)  # fmt: skip
def test_a_task_runs_the_same_command(given: dict[str, object], words: str, expected: str) -> None:
    assert " ".join(options(**given).task(words.split())).endswith(expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2"], "no command; it stands behind --"),
        (["2", "--"], "no command"),
        (["2", "--", "python", "-m", "ldm.sample", "--shard=1/2"], "has --shard already"),
    ],
)
def test_no_such_command(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0", "--", "x"], "expected 1 to"),
        (["2", "--num-gpus", "-1", "--", "x"], "--num-gpus: found -1.0, expected 0 or more"),
        (["2", "--num-gpus", "nan", "--", "x"], "--num-gpus: found nan"),
        (["2", "--num-cpus", "0", "--", "x"], "--num-cpus: found 0.0, expected more than 0"),
        (["2", "--retries", "-1", "--", "x"], "--retries: found -1"),
        (["2", "--shards", "1", "--", "x"], "--shards: found 1, expected 2"),
        (["2", "--env", "lava", "--", "x"], "invalid choice: 'lava'"),
    ],
)
def test_wrong_numbers(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_one_line_says_how_to_get_it() -> None:
    ran = subprocess.run(
        [sys.executable, "scripts/ray_job.py", "2", "--", "python", "-m", "ldm.sample"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert re.fullmatch(
        r"error: no Ray in \S+; install it by: \S+ -m pip install 'ray\[default\]'\n", ran.stderr
    )


def test_a_task_tells_its_code(tmp_path: Path) -> None:
    command = ["bash", "-c", 'echo "$0 $GIVEN" >said; exit "$CODE"', "a b"]
    for code in (0, 2):
        assert run_task("task", command, {"GIVEN": "it's", "CODE": f"{code}"}, f"{tmp_path}") == code
    assert (tmp_path / "said").read_text() == "a b it's\n"
    with pytest.raises(ChildProcessError, match=r"task on .* ended with code 1"):
        run_task("task", command, {"CODE": "1"}, f"{tmp_path}")
    with pytest.raises(ChildProcessError, match="ended with code -9"):
        run_task("task", ["bash", "-c", "kill -KILL $$"], {}, f"{tmp_path}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_command_ends_with_its_worker(tmp_path: Path) -> None:
    command = ["bash", "-c", "echo $$ >pid; exec sleep 60"]
    call = f"from egogen.ray_job import run_task; run_task('task', {command}, {{}}, {str(tmp_path)!r})"
    worker = subprocess.Popen([sys.executable, "-c", call], cwd=ROOT)
    written = tmp_path / "pid"
    wait_until(lambda: written.exists() and written.read_text().endswith("\n"), "the command has begun", 30)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    status = Path("/proc") / written.read_text().strip() / "status"
    wait_until(
        lambda: not status.exists() or "\nState:\tZ" in status.read_text(), "the command has ended", 10
    )


def test_what_a_task_is_given() -> None:
    own = {"RUN_ROOT": "/x", "HF_TOKEN": "hidden", "RAY_ADDRESS": "a", "CUDA_VISIBLE_DEVICES": "0"}
    assert handed(own) == {"RUN_ROOT": "/x"}


def test_a_task_needs_room(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    check_room(nodes, options(), fixed=True)
    check_room(nodes, options(num_gpus=0.0, num_cpus=64.0), fixed=True)
    message = "a task needs 2 GPUs and 1 CPUs, and the nodes have 1 GPUs and 4 CPUs, 0 GPUs and 64 CPUs; "
    with pytest.raises(UserError, match=message):
        check_room(nodes, options(num_gpus=2.0), fixed=True)
    assert not caplog.messages
    check_room(nodes, options(num_gpus=2.0), fixed=False)
    assert caplog.messages[0].startswith(message)
    assert ray_job.shown(None) == "none (it needs ray[default])"
