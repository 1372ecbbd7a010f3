"""Damage to a toy data set that several tests of `egogen.validate` do, and what is found of it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from egogen.layout import Layout
from egogen.validate.validate_options import ValidateOptions
from egogen.validate.whole import validate


def frame(root: Path, split: str, number: int, name: str) -> Path:
    return root / f"EgoGen/ego4d.fho/{split}/toy_{split}_{number:06d}/0/frame_00000000{name}.jpg"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def annotations(root: Path, split: str) -> Path:
    return root / f"EgoGen/ego4d_{split}.json"


def faults(root: Path, dataset: str = "ego4d", **options: Any) -> dict[str, list[str]]:
    """The faults by `where, check`, of checks that have any."""
    report = validate(ValidateOptions(root=root, dataset=dataset, **options))
    return {f"{check.where}, {check.name}": check.faults for check in report.checks if check.faults}


def target_differs(root: Path) -> None:
    shutil.copy(
        frame(root, "val", 1, "45"),
        Layout(root, "ego4d").metric_targets / "toy_val_000000/0/frame_0000000045.jpg",
    )


def target_extra(root: Path) -> None:
    (Layout(root, "ego4d").metric_targets / "x.jpg").write_bytes(b"x")


def unfinished(root: Path) -> None:
    (root / "EgoGen/ego4d.fho/train/toy_train_000000/0/.x.jpg.00.part").write_bytes(b"x")


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 0)).save(stream, "JPEG")
    return stream.getvalue()
