"""scripts/toy_benchmark.sh --budget small for real, from the data to the report: minutes on two cores."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.test_toy_benchmark import OTHERS, TRAINED
from tests.workbench import ROOT

HELD_OUT = 48  # frames of the small budget's val split
STEPS = {"40", "80"}  # of configs/benchmark/small.yaml, at which systems are kept and drawn


def run(folder: Path) -> str:
    command = ["bash", "scripts/toy_benchmark.sh", "--budget", "small"]
    # Threads are the script's to choose.
    own = {"OMP_NUM_THREADS", "DATA_ROOT", "WEIGHTS_ROOT"}
    env = {name: value for name, value in os.environ.items() if name not in own} | {"RUN_ROOT": str(folder)}
    ran = subprocess.run(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    return ran.stdout


@pytest.mark.slow
@pytest.mark.long
def test_the_small_budget_ends_in_a_report(tmp_path: Path) -> None:
    output = run(tmp_path)
    work = tmp_path / "toy_benchmark/small"
    systems = json.loads((work / "report/metrics.json").read_text())["systems"]
    assert set(systems) == {*TRAINED, *OTHERS}
    for name, values in systems.items():
        counts = {metric: value["n"] for metric, value in values.items()}
        wanted = ("psnr", "psnr_box", "ssim", "ssim_box", "toy_success", "toy_fid", "toy_similarity")
        assert counts == dict.fromkeys(wanted, HELD_OUT), name
    success = {name: values["toy_success"]["mean"] for name, values in systems.items()}
    similarity = {name: values["toy_similarity"]["mean"] for name, values in systems.items()}
    assert success["copy"] == 0  # the frame before is no success
    assert similarity["lego"] > similarity["sdedit"]  # so short a training is seen
    page = (work / "report/index.html").read_text()
    assert all(name in page for name in systems)
    assert page.count("<img") > len(systems)
    assert {path.name for path in (work / "points/lego").iterdir()} == STEPS
    claims = (work / "report/claims.md").read_text().splitlines()
    assert len(claims) == 2 + 9  # the head, then a line for each
    assert "done before" not in output
    again = run(tmp_path)
    assert again.count("done before") == len(list((work / ".done").iterdir())) > 30
