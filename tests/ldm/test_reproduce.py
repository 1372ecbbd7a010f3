"""The reproduction, rehearsed by its command from a hub on this machine to the table, which is the witness.

The hub has the published names, layouts and formats at toy size (tests/ldm/released.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from egogen.commands import module_of
from egogen.download.__main__ import main as download
from ldm.metrics.results.published_results import published_results
from ldm.reproduction.computing import Computing
from ldm.reproduction.fetching import downloads
from ldm.reproduction.reproduce_options import ReproduceOptions
from ldm.reproduction.room import count_pairs
from tests.egogen.conftest import hub as hub
from tests.egogen.fake_hub import Hub, serving
from tests.ldm import released
from tests.workbench import ROOT

pytestmark = pytest.mark.slow
VAL = 2
STEPS = [
    *(
        "download-dataset",
        "download-stage-1",
        "download-clip",
        "download-stage-2",
        "download-weights-egovlp-psnr",
    ),
    *("describe-val", "draw", "measure-egovlp-psnr", "report-egovlp-psnr"),
]


@dataclass(frozen=True)
class Machine:
    """A machine with nothing on it, and the hub that it sees."""

    root: Path
    hub: Hub

    def reproduce(self, *words: str, code: int = 0) -> str:
        """Runs the command; returns what it printed."""
        roots = {name: f"{self.root / name}" for name in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT", "HF_HOME")}
        roots |= {"HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0", "CUDA_VISIBLE_DEVICES": ""}
        ran = subprocess.run(
            ["bash", "scripts/reproduce.sh", *words], cwd=ROOT,
            env={**os.environ, **roots, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=400,
        )  # fmt: skip
        assert ran.returncode == code, ran.stdout
        return ran.stdout

    def work(self, name: str) -> Path:
        """The folder of results."""
        return self.root / "RUN_ROOT/reproduce" / name

    @property
    def asked(self) -> set[str]:
        """Files whose content was asked for; the hub's client has questions of its own."""
        return {seen.name for seen in self.hub.seen if not seen.name.startswith("api/")}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with serving() as server:
        released.publish_data(server, tmp_path / "published", VAL)
        released.publish_metrics(server)
        yield Machine(tmp_path, server)


def check_table(folder: Path, dataset: str) -> None:
    """The rehearsal's row, told as such, beside the published one."""
    page = (folder / "report/table.md").read_text()
    assert f"REHEARSAL of {VAL} pairs" in page
    paper = published_results(dataset)["LEGO"]
    assert f"{100 * paper['egovlp']:.2f}" in page
    assert f"{paper['psnr']:.2f}" in page
    shown = (folder / "report/index.html").read_text()
    assert f"Rehearsal, no result: {VAL} pairs in place of the" in shown
    metrics = json.loads((folder / "samples/lego/metric/metric.json").read_text())
    assert metrics.keys() == {"egovlp_image_sim", "psnr"}
    assert 3 < metrics["psnr"] < 30
    assert len([*(folder / "samples/lego/images").rglob("*.jpg")]) == VAL


def test_from_released_checkpoints(machine: Machine) -> None:
    server, words = machine.hub, ("ego4d", "--metrics", "egovlp,psnr")
    released.publish_vllm(server, "ego4d")
    released.publish_diffusion(server, "ego4d")
    repo = server.repos["model", released.REPOS["ego4d"]]

    # A release whose names are others is told before anything is fetched, with the names that it has.
    named = "ego4d_diffusion_with_vllm_feature.ckpt"
    repo["renamed.ckpt"] = repo.pop(named)
    shown = machine.reproduce(*words, code=2)
    assert (
        "error: bolinlai/LEGO-Ego4D: --only *_diffusion_with_vllm_feature.ckpt: no such file; it has" in shown
    )
    assert "renamed.ckpt" in shown
    repo[named] = repo.pop("renamed.ckpt")

    # So is a disk that is too small.
    server.announced[named] = {"size": 10**15}
    assert "needs 1.0 PB" in machine.reproduce(*words, code=2)
    server.announced.clear()
    assert not machine.asked
    assert not machine.work("").exists()

    # A lost connection ends the run; the same command goes on in the middle of the file.
    server.drop_at["EgoGen.z01"] = [3000] + [0] * 30
    shown = machine.reproduce(*words, code=2)
    assert "error: step 'download-dataset' failed" in shown
    assert "no GPU here: by the released LLaVA describing would take" in shown
    server.drop_at.clear()
    server.seen.clear()
    shown = machine.reproduce(*words)
    assert ("EgoGen.z01", "bytes=3000-") in {(seen.name, seen.range) for seen in server.seen}
    assert not {"pytorch_model.bin", "scaleup_training_ego4d_eval.ckpt"} & machine.asked
    folder = machine.work("ego4d-checkpoints")
    assert f"report: {folder}/report/index.html" in shown
    check_table(folder, "ego4d")
    described = json.loads((folder / "annotations/ego4d_val.json").read_text())
    texts = [action["llava_forecast_finetune"] for clip in described.values() for action in clip.values()]
    assert len(texts) == VAL
    assert all("hand" in text for text in texts)  # the toy LLaVA's own words

    # Once more, nothing is left to do.
    server.seen.clear()
    again = machine.reproduce(*words)
    assert not machine.asked
    assert re.findall(r"^== (\S+): done before$", again, re.MULTILINE) == STEPS


def test_from_released_features(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the plan, in this process."""
    for name in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.setenv(name, f"{tmp_path / name}")
    released.publish_data(hub, tmp_path / "published", VAL)
    released.publish_metrics(hub)
    released.publish_diffusion(hub, "epickitchen")
    released.publish_features(hub, "epickitchen", tmp_path / "published")
    made = ReproduceOptions(dataset="epickitchen", taken="features", metrics=["psnr", "egovlp"], gpus=0)
    for step in downloads(made):
        download(step.words[2:])
    for step in [*Computing(made, count_pairs(made)).steps()]:
        monkeypatch.setenv("RUN_ROOT", step.variables["RUN_ROOT"])
        assert step.words[:5] == ["bash", "scripts/run.sh", "ldm", "python", "-m"]
        import_module(module_of(step.words[5])).main(step.words[6:])
    monkeypatch.setenv("RUN_ROOT", f"{tmp_path / 'RUN_ROOT'}")
    check_table(made.work, "epickitchen")
