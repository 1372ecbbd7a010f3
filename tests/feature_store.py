"""A small published tree of features for tests: the projector's output of known patches, and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from egogen.features import write_feature
from egogen.features.projector import Projector
from egogen.layout import features_root

WIDTH, PATCH_WIDTH = 24, 10
NAMES = [f"clip_{number % 3}/{number}/x.npy" for number in range(10)]


def projector(seed: int = 0) -> Projector:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(WIDTH, PATCH_WIDTH)) / PATCH_WIDTH**0.5
    return Projector(weight.astype(np.float32), rng.normal(size=WIDTH).astype(np.float32))


def patches(name: str) -> np.ndarray:
    return np.random.default_rng(NAMES.index(name)).normal(size=(256, PATCH_WIDTH)).astype(np.float32)


def text(name: str) -> np.ndarray:
    """From 1 to 100 rows, so that some are cut."""
    number = NAMES.index(name)
    return np.random.default_rng(100 + number).normal(size=(1 + 11 * number, WIDTH)).astype(np.float16)


def folder(root: Path, kind: str) -> Path:
    return features_root(root, "ego4d", "train", kind)  # type: ignore[arg-type]


def write_tree(root: Path) -> Path:
    """Writes the features of all names below `root`, as stage 1 does; and the projector beside it."""
    for name in NAMES:
        write_feature(folder(root, "llava_image") / name, projector().features(patches(name)))
        write_feature(folder(root, "llava_text") / name, text(name))
    projector().write(root / "projector.safetensors")
    return root
