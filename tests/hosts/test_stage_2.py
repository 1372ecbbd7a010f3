"""Stage 2 over two hosts: as one process; a cut is waited out; what ends is told in a line and goes on."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if not find_spec("diffusers"):
    pytest.skip("stage 2 needs the environment ldm", allow_module_level=True)

from ldm.checkpoints.safe_reading import read
from ldm.train import main as train
from ldm.training.callbacks.checkpoints import step_files
from tests.hosts.bed import Hosts, measured
from tests.ldm.toy_run import Run, make_run, training

pytestmark = pytest.mark.long
CUT = float(os.environ.get("CUT_SECONDS", "60"))
STEPS, FIRST = 60, "step=0000005.ckpt"
NEAR = 2e-3  # sums in another order, which Adam divides by their own size
SETTINGS = [
    *(
        "data.batch_size=1",
        "model.mixer_dropout=0",
        f"trainer.max_steps={STEPS}",
        "trainer.save_every_steps=5",
    ),
    *("trainer.validate_every_epochs=1000", "trainer.images=0", "trainer.threads=1", "trainer.keep_last=0"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


@pytest.fixture(scope="module")
def whole(run: Run) -> Path:
    """One process that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        train(training(run, "whole", *SETTINGS))
    return folder(run, "whole")


def folder(run: Run, name: str) -> Path:
    return run.root / "logs" / f"tiny_{name}" / "checkpoints"


def words(run: Run, name: str, *more: str) -> list[str]:
    return ["main.py", *training(run, name, *SETTINGS, "trainer.nodes=2", *more)]


def farthest(first: Path, second: Path) -> float:
    """Largest difference of weights between two checkpoints, as a share of how far training moved them."""
    one, other, begun = (read(path)["state_dict"] for path in (first, second, first.parent / FIRST))
    weights = [name for name, value in one.items() if value.ndim]  # and not how often they were averaged
    pairs = [(one[name], other[name], begun[name]) for name in weights]
    moved = max((a - c).abs().max().item() for a, _, c in pairs)
    found = max((a - b).abs().max().item() for a, b, _ in pairs) / moved
    measured(f"{second}: weights differ by {found:.2e} of the way")
    return found


def test_a_cut_is_waited_out_and_a_killed_host_is_told(
    run: Run, whole: Path, two: Hosts, tmp_path: Path
) -> None:
    two.start(words(run, "cut"), tmp_path)
    two.until(lambda: 10 in step_files(folder(run, "cut")))
    with two.cut():
        time.sleep(2)
        before = max(step_files(folder(run, "cut")))
        time.sleep(CUT)
        assert max(step_files(folder(run, "cut"))) == before < STEPS
    plugged = time.monotonic()
    two.until(lambda: max(step_files(folder(run, "cut"))) >= before + 5)
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
    assert max(step_files(folder(run, "cut"))) < STEPS
    two.train(words(run, "cut"), tmp_path)
    assert farthest(whole / "last.ckpt", folder(run, "cut") / "last.ckpt") < NEAR


def test_silence_ends_a_run_after_the_time_that_is_set(run: Run, two: Hosts, tmp_path: Path) -> None:
    two.start(words(run, "silent", "trainer.timeout_minutes=0.2"), tmp_path)
    two.until(lambda: 10 in step_files(folder(run, "silent")))
    with two.cut():
        began = time.monotonic()
        assert [host.wait(90) != 0 for host in two.two] == [True, True]
        measured(f"both ended within {time.monotonic() - began:.1f} s of silence, of 12 s allowed")
    for host in two.two:
        (line,) = host.errors
        assert "trainer.timeout_minutes" in line
        assert "[rank" not in host.printed  # how torch begins the lines of a traceback


def test_as_many_processes_as_there_are(run: Run, whole: Path, two: Hosts, tmp_path: Path) -> None:
    """Begun by one process, continued by two hosts, ended by one."""
    limit = "trainer.max_steps={}"
    train(training(run, "changed", *SETTINGS, limit.format(20)))
    two.train(words(run, "changed", limit.format(40)), tmp_path)
    train(training(run, "changed", *SETTINGS))
    assert farthest(whole / "last.ckpt", folder(run, "changed") / "last.ckpt") < NEAR
    assert read(folder(run, "changed") / "last.ckpt")["global_step"] == STEPS
