"""scripts/toy_fast.sh with a stand-in for Python: each distillation in its turn, every row of every seed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workbench import Workbench

ROWS = 21


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path, "uv python3.11")


def test_every_row_is_drawn_by_its_own_checkpoint(bench: Workbench) -> None:
    output = bench.run("toy_fast.sh", "--seeds", "0 3", "--teacher", "LEGO.ckpt")
    calls = bench.calls()
    distilled = [call for call in calls if "ldm.distill" in call]
    names = [re.search(r"--name (\w+)", call)[1] for call in distilled]
    assert names == ["guidance", "phases8", "phases4", "phases2", "phases1", "direct4"]
    teachers = [re.search(r"--teacher (\S+)", call)[1] for call in distilled]
    logs = "runs/toy_fast/small/logs"
    assert teachers == ["LEGO.ckpt", *[f"{logs}/guidance/checkpoints/best.ckpt"] * 4, "LEGO.ckpt"]
    assert f"distill.student={logs}/phases8/checkpoints/best.ckpt" in distilled[2]
    drawn = [call for call in calls if "ldm.sample" in call]
    assert len(drawn) == 2 * ROWS
    assert not any("--shard" in call for call in drawn)  # every seed draws all frames
    assert {re.search(r"sampling.seed=(\S+)", call)[1] for call in drawn} == {"0", "3"}
    (phases,) = [call for call in drawn if "seed3/phases/4 " in call]
    assert f"--ckpt {logs}/phases4/checkpoints/best.ckpt" in phases
    assert phases.endswith("sampling.scheduler=ddim_trailing sampling.steps=4")
    assert sum("ldm.evaluate" in call for call in calls) == 2
    (report,) = [call for call in calls if "ldm.report.passes" in call]
    rows = {re.search(r"--out \S+/seed0/(\S+)", call)[1] for call in drawn if "/seed0/" in call}
    asked = re.findall(r"(\S+) within \S+ of (\S+) in", report)
    assert {name for pair in asked for name in pair} <= rows
    shown = report.partition("--show ")[2].split(" --")[0].split()
    assert set(shown) <= rows
    again = bench.run("toy_fast.sh", "--seeds", "0 3", "--teacher", "LEGO.ckpt")
    assert again.count("done before") == output.count("\n== ") // 2


def test_distillations_that_are_there_are_taken(bench: Workbench) -> None:
    logs, done = bench.root / "assets/logs", bench.root / "assets/.done"
    done.mkdir(parents=True)
    for name in ("guidance", "8", "4"):
        (done / f"distill-{name}").touch()
    for name in ("distill_guidance_toy_guidance", "distill_phases_toy_8", "distill_phases_toy_4"):
        (logs / name).mkdir(parents=True)
    bench.run("toy_fast.sh", "--students", str(logs))
    calls = bench.calls()
    names = [re.search(r"--name (\w+)", call)[1] for call in calls if "ldm.distill" in call]
    assert names == ["phases2", "phases1", "direct4"]
    taken = bench.root / "runs/toy_fast/small/logs"
    assert (taken / "phases4").resolve() == logs / "distill_phases_toy_4"
    assert (taken / "guidance").resolve() == logs / "distill_guidance_toy_guidance"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "huge"], "--budget huge: allowed are small and full"),
        (["--seeds", "a"], "--seeds 'a': expected whole numbers"),
        (["x"], "argument 'x'; usage: bash scripts/toy_fast.sh"),
        (["--students", ".", "--teacher", "x"], "--students: are of the teacher that ships"),
        (["--students", "nowhere"], "--students nowhere: no such folder"),
        (["--teacher"], "--teacher needs a value"),
    ],
)
def test_wrong_arguments_are_named(bench: Workbench, words: list[str], message: str) -> None:
    assert message in bench.run("toy_fast.sh", *words, code=2)
