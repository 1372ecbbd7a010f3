"""A run of random frames with its annotations and targets: what an evaluation starts from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from egogen.layout import FOLDERS
from ldm import evaluate
from ldm.metrics import fid
from ldm.metrics.accumulators import Vectors
from ldm.metrics.frames.frame_pairs import SIDES, PairBatch, Side
from tests.ldm.evaluation.networks import ORACLE, write_all
from tests.ldm.evaluation.recorded_run import Table, flags


@dataclass(frozen=True)
class Scene:
    """Paths of one made-up evaluation."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def targets(self) -> Path:
        return self.root / "val_gt_for_metric"

    @property
    def frames(self) -> Path:
        return self.root / "val"

    @property
    def annotations(self) -> Path:
        return self.root / "val.json"

    def generated(self, index: int = 0) -> Path:
        return self.run / "images" / f"clip{index}" / "act" / "000002.jpg"

    def flags(self, *more: str) -> list[str]:
        """For the metrics that need no weights, unless `more` names others."""
        return [
            *("--dataset", "ego4d", "--gen_path", str(self.run), "--gt_path", str(self.targets)),
            *("--edit_file", str(self.annotations), "--device", "cpu", "--metrics", "psnr,ssim", *more),
        ]


def save_noise(path: Path, seed: int, size: tuple[int, int] = (32, 18), mode: str = "RGB") -> None:
    """Saves random pixels; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_scene(root: Path, count: int = 4) -> Scene:
    """Writes annotations, source, target and generated frames of `count` clips with one action each."""
    scene = Scene(root)
    raw = {
        f"clip{index}": {
            "act": {
                "image_0": f"clip{index}/act/000001.jpg",
                "image_1": f"clip{index}/act/000002.jpg",
                "action": f"#C C picks up <cup> {index}",
                "llava_forecast_finetune": f"The right hand holds cup {index}.",
            }
        }
        for index in range(count)
    }
    for index in range(count):
        save_noise(scene.frames / f"clip{index}/act/000001.jpg", 10 + index)
        save_noise(scene.frames / f"clip{index}/act/000002.jpg", 20 + index)
        save_noise(scene.targets / f"clip{index}/act/000002.jpg", 20 + index)
        save_noise(scene.generated(index), 30 + index)
    scene.annotations.write_text(json.dumps(raw))
    return scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path)


@pytest.fixture
def noise() -> Callable[..., None]:
    return save_noise


@pytest.fixture
def oracle() -> Path:
    return ORACLE


@pytest.fixture(autouse=True)
def _run_root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of targets are kept below RUN_ROOT; each test has its own."""
    monkeypatch.setenv("RUN_ROOT", str(tmp_path_factory.mktemp("runs")))
    monkeypatch.delenv("WEIGHTS_ROOT", raising=False)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all weight files at toy size."""
    return write_all(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded frames in the EgoGen layout, with val_gt_for_metric, and the generated ones below gen/."""
    root = tmp_path_factory.mktemp("recorded")
    shutil.copytree(ORACLE / "EgoGen", root / "EgoGen")
    shutil.copytree(ORACLE / "gen", root / "gen")
    for dataset, folder in FOLDERS.items():
        for clip in json.loads((root / "EgoGen" / f"{dataset}_val.json").read_text()).values():
            for action in clip.values():
                target = root / "EgoGen" / folder / "val_gt_for_metric" / action["image_1"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / "EgoGen" / folder / "val" / action["image_1"], target)
    return root


@pytest.fixture
def run_folder(recorded: Path, tmp_path: Path) -> Path:
    """A run of the recorded ego4d frames."""
    shutil.copytree(recorded / "gen" / "ego4d" / "images", tmp_path / "lego" / "images")
    return tmp_path / "lego"


@pytest.fixture(scope="session")
def whole_table(
    recorded: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Table]:
    """By data set: all metrics of its recorded frames by the command, which several tests look at."""

    @cache
    def measured(dataset: str) -> Table:
        root = tmp_path_factory.mktemp(f"table_{dataset}")
        shutil.copytree(recorded / "gen" / dataset / "images", root / "lego" / "images")
        seen: dict[Side, dict[str, np.ndarray]] = {side: {} for side in SIDES}
        features = fid.features

        def noted(*given: Any) -> Vectors:
            vectors = features(*given)

            def told(batch: PairBatch, side: Side) -> Tensor:
                found = vectors(batch, side)
                seen[side].update(zip((pair.frame for pair in batch.pairs), found.numpy(), strict=True))
                return found

            return told

        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
            patch.setenv("RUN_ROOT", str(root / "runs"))
            patch.setattr(fid, "features", noted)
            more = ("--per-sample", str(root / "samples.parquet"))
            evaluate.main(flags(recorded, root / "lego", dataset, weights, *more))
        return Table(root, printed.getvalue(), seen)

    return measured
