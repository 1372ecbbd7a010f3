"""Stage 1 under ZeRO-3 over two hosts: as one process; a cut is waited out; what ends is told and goes on."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if not find_spec("deepspeed"):
    pytest.skip("stage 1 needs the environment vllm", allow_module_level=True)

from tests.forked import Forked, command
from tests.hosts.bed import Hosts, measured
from tests.llava.conftest import data, tiny
from tests.llava.training import flags, losses, zero

__all__ = ["data", "tiny"]
pytestmark = pytest.mark.long
CUT = float(os.environ.get("CUT_SECONDS", "60"))
STEPS = 60


def words(data: Path, tiny: Path, out: Path, *more: str) -> list[str]:
    schedule = ("--max_steps", f"{STEPS}", "--save_steps", "5", "--save_total_limit", "20")
    single = ("--per_device_train_batch_size", "1", *zero(out.parent / "run", 3))
    return [*flags(data, tiny, out, *schedule, *single), *more]


def alone(data: Path, tiny: Path, out: Path, log: Path) -> None:
    """One process, whose updates take as many batches."""
    process = Forked(
        command, "llava.train", words(data, tiny, out, "--gradient_accumulation_steps", "2"), log=log
    )
    assert process.wait() == 0, process.printed


def steps(out: Path) -> list[int]:
    """Of the complete checkpoints."""
    return sorted(int(path.parent.name.partition("-")[2]) for path in out.glob("checkpoint-*/complete.json"))


def test_two_hosts_learn_as_one_process_through_a_cut_a_kill_and_a_change_of_number(
    data: Path, tiny: Path, two: Hosts, tmp_path: Path
) -> None:
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    alone(data, tiny, whole, log)
    argv = ["-m", "llava.train", *words(data, tiny, out)]
    two.start(argv, tmp_path)
    two.until(lambda: 10 in steps(out))
    with two.cut():
        time.sleep(2)
        before = steps(out)[-1]
        time.sleep(CUT)
        assert steps(out)[-1] == before < STEPS
    plugged = time.monotonic()
    two.until(lambda: steps(out)[-1] >= before + 5)
    measured(
        f"after a cut of {CUT} s the first new checkpoint came within {time.monotonic() - plugged:.1f} s"
    )
    killed = time.monotonic()
    two.two[1].kill()
    assert two.two[0].wait(60) != 0
    measured(f"the other host ended {time.monotonic() - killed:.1f} s after the SIGKILL")
    (line,) = two.two[0].errors
    assert "the processes of this run have lost each other (" in line
    assert "[rank0]" not in two.two[0].printed  # how torch begins the lines of a traceback
    assert 15 <= steps(out)[-1] < STEPS
    alone(data, tiny, out, log)
    assert "of 2 processes, made into one for 1" in log.read_text()
    found, wanted = losses(out), losses(whole)
    measured(f"losses differ by {max(abs(a - b) for a, b in zip(found, wanted, strict=True)):.1e}")
    assert found == pytest.approx(wanted, abs=1e-3)


def test_silence_ends_a_run_after_the_time_that_is_set(
    data: Path, tiny: Path, two: Hosts, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    two.start(["-m", "llava.train", *words(data, tiny, out, "--ddp_timeout", "12")], tmp_path)
    two.until(lambda: 5 in steps(out))
    with two.cut():
        began = time.monotonic()
        assert [host.wait(90) != 0 for host in two.two] == [True, True]
        measured(f"both ended within {time.monotonic() - began:.1f} s of silence, of 12 s allowed")
    for host in two.two:
        (line,) = host.errors
        assert "--ddp_timeout" in line
