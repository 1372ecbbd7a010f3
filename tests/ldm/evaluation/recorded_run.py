"""The recorded frames as a run, and the flags that measure them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egogen.layout import FOLDERS
from ldm.metrics.frames.frame_pairs import Side

QUICK = "clip,egovlp_plus,lpips_squeeze"


@dataclass(frozen=True)
class Table:
    """What the command measured of the recorded frames of a data set.

    Attributes:
        root: holds the run `lego` and `samples.parquet`.
        printed: by the command.
        seen: what Inception saw in the frames of each side, [2048] by frame.
    """

    root: Path
    printed: str
    seen: dict[Side, dict[str, np.ndarray]]

    @property
    def folder(self) -> Path:
        return self.root / "lego"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def flags(recorded: Path, run_folder: Path, dataset: str, weights: Path, *more: str) -> list[str]:
    root = recorded / "EgoGen"
    return [
        *("--dataset", dataset, "--gen_path", str(run_folder), "--weights", str(weights), "--device", "cpu"),
        *("--gt_path", str(root / FOLDERS[dataset] / "val_gt_for_metric")),
        *("--edit_file", str(root / f"{dataset}_val.json"), *more),
    ]


def values(folder: Path) -> dict[str, dict[str, float]]:
    return dict(read(folder / "metric" / "per_sample.json"))


def fresh(folder: Path) -> None:
    """Forgets what was measured, also of the targets."""
    shutil.rmtree(folder / "metric", ignore_errors=True)
    shutil.rmtree(Path(os.environ["RUN_ROOT"]) / "cache", ignore_errors=True)
