"""benchmarks/all.sh with a stand-in for Python: every benchmark once, on the device that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workbench import ROOT, Workbench

SCRIPT = "../benchmarks/all.sh"


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path, "uv python3.11")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_benchmark_runs_once(bench: Workbench, device: str) -> None:
    bench.run("setup.sh", "all")
    bench.run(SCRIPT, "--device", device)
    calls = [call for call in bench.calls() if "benchmarks/" in call]
    found = [re.search(r"benchmarks/(\w+)\.py", call)[1] for call in calls]
    assert sorted(found) == sorted(
        {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"measuring", "scale_steps"}
    )
    assert found[-1] == "collect"
    assert {word for call in calls for word in re.findall(r"--device (\w+)", call)} == {device}
    assert sum("--size sd15" in call for call in calls) == (1 if device == "cpu" else 2)


def test_quick_and_full_figures_are_kept_apart(bench: Workbench) -> None:
    bench.run("setup.sh", "all")
    for words in ([], ["--quick"], ["--device", "cuda"]):
        bench.run(SCRIPT, *words)
    peaks = [call for call in bench.calls() if "benchmarks/peak.py" in call]
    folders = [re.search(r"--json runs/benchmarks/(\w+)/peak.json", call)[1] for call in peaks]
    assert folders == ["cpu", "cpu_quick", "cuda"]


def test_quick_is_small_everywhere(bench: Workbench) -> None:
    bench.run("setup.sh", "all")
    bench.run(SCRIPT, "--quick")
    assert not any("sd15" in call or "13b" in call for call in bench.calls())


def test_what_cannot_be_measured_is_named_at_the_end(bench: Workbench) -> None:
    bench.run("setup.sh", "all")
    output = bench.run(SCRIPT, code=2, FAIL_ON="benchmarks/ldm_train.py")
    assert output.splitlines()[-1] == "error: not measured: train; their messages are above"
    assert any("benchmarks/prepare.py" in call for call in bench.calls())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "tpu"], "--device tpu: allowed are cpu and cuda"),
        (["--out"], "--out needs a value"),
        (["x"], "argument 'x'; usage: bash benchmarks/all.sh"),
    ],
)
def test_wrong_arguments_are_named(bench: Workbench, words: list[str], message: str) -> None:
    assert message in bench.run(SCRIPT, *words, code=2)
