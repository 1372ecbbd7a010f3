"""The recorded numbers of the published stage 1 and their tiny checkpoint, rebuilt by rule, without llava."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

ORACLE = Path(__file__).parent / "oracle" / "llava"
VISION = "model.vision_tower.vision_tower."


def rebuilt_weights(manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Normal draws keyed by a weight's name; `inv_freq` by its formula. The manifest's sums are checked."""
    weights = {}
    for name, facts in manifest["keys"].items():
        shape = tuple(facts["shape"])
        if not facts["filled"]:
            width = 2 * shape[0]
            weights[name] = 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))
            continue
        rng = np.random.default_rng([zlib.crc32(name.encode()), manifest["salt"]])
        draws = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        if len(shape) > 1:
            weights[name] = draws / int(np.prod(shape[1:])) ** 0.5
        else:
            weights[name] = 1 + 0.1 * draws if name.endswith("weight") else 0.05 * draws
        assert abs(weights[name].double().sum().item() - facts["sum"]) < 1e-6 * max(1.0, facts["abs_sum"]), (
            name
        )
    return weights


def write_published(folder: Path) -> Path:
    """Writes the tiny checkpoint to `folder/tiny` and its CLIP beside it."""
    manifest = json.loads((ORACLE / "checkpoint" / "manifest.json").read_text())
    checkpoint, clip = folder / "tiny", folder / "openai" / "clip-tiny-v"
    shutil.copytree(ORACLE / "checkpoint", checkpoint, ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(ORACLE / "clip", clip)
    weights = rebuilt_weights(manifest)
    torch.save(weights, checkpoint / "pytorch_model.bin")
    vision = {name.removeprefix(VISION): value for name, value in weights.items() if name.startswith(VISION)}
    torch.save(vision, clip / "pytorch_model.bin")
    return checkpoint
