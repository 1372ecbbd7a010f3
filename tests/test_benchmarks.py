"""benchmarks/all.sh with a stand-in for Python: every benchmark once, on the device that is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
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


@pytest.mark.long
def test_every_benchmark_measures(tmp_path: Path) -> None:
    """For real, at small size: a script that has fallen behind the code that it measures ends in an error."""
    environment = {**os.environ, "RUN_ROOT": f"{tmp_path / 'runs'}", "CUDA_VISIBLE_DEVICES": ""}
    words = ["bash", "benchmarks/all.sh", "--quick", "--out", f"{tmp_path / 'found'}"]
    subprocess.run(words, cwd=ROOT, env=environment, check=True, timeout=3600)
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "found").glob("*.json")}
    assert len(found) == 12
    assert all(any(isinstance(part, list) and part for part in told.values()) for told in found.values())
    assert (tmp_path / "found/summary.md").read_text().count("|") > 100


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
