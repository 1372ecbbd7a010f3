"""The recorded numbers of the published code, and their tiny checkpoint, rebuilt by rule."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.files import write_json
from llava.model import Llava, load

ORACLE = Path(__file__).parents[1] / "oracle" / "llava"
Loaded = tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def own_tiny(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return write_published(tmp_path)


@pytest.fixture(scope="session")
def loaded(tiny: Path) -> Loaded:
    return load(tiny)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six records with frames."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    records = []
    for index in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)).save(root / f"{index}.jpg")
        turns = [
            {"from": "human", "value": f"<image>\nHow does the person cut apple {index}?"},
            {"from": "gpt", "value": f"The left hand cuts apple {index}."},
        ]
        records.append({"id": f"r{index}", "image": f"{index}.jpg", "conversations": turns})
    write_json(root / "records.json", records)
    return root
