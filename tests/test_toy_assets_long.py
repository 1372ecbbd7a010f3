"""The toy start that ships is what its manifest says: the same world, and a tuning that begins alike."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from egogen.asset_manifest import data_facts, read_manifest
from egogen.shipped import TOY_START
from egogen.toy.world import write_world
from tests.workbench import ROOT

STEPS = 30
# Of make_toy_assets.sh, but for the length; the rate rises over 90 steps whatever comes after.
TUNING = ["--per_device_train_batch_size", "8", "--max_steps", f"{STEPS}"]
RISING = ["--warmup_ratio", "0", "--warmup_steps", "90"]


@pytest.mark.slow
@pytest.mark.long
def test_a_rebuilding_takes_the_same_path(tmp_path: Path) -> None:
    manifest = read_manifest(TOY_START)
    world = manifest.data
    write_world(tmp_path / "toy/data", world["train"], world["val"], world["size"], world["seed"])
    assert data_facts(tmp_path / "toy/data") == world
    start = ["--model_name_or_path", str(TOY_START.resolve() / "llava"), "--logging_steps", "10"]
    env = {**os.environ, "RUN_ROOT": str(tmp_path), "NPROC": "1"}
    command = ["bash", "scripts/finetune_toy.sh", *start, *TUNING, *RISING, "--save_steps", f"{STEPS}"]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    (state,) = (tmp_path / "toy/vllm").glob("checkpoint-*/trainer_state.json")
    losses = {
        row["step"]: row["loss"] for row in json.loads(state.read_text())["log_history"] if "loss" in row
    }
    wanted = {step: loss for step, loss in manifest.losses.items() if step <= STEPS}
    assert losses == pytest.approx(
        wanted, rel=0.03
    )  # what ships is rounded to 16 bits; sums differ by machine
    assert wanted[STEPS] < 0.6 * wanted[10]  # a path, and not a place
