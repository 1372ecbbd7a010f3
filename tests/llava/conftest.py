"""The tiny checkpoint of the recorded numbers, loaded; and records to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.files import write_json
from llava.model import Llava, load
from tests.llava.describing import make_split
from tests.llava_oracle import ORACLE, write_published

__all__ = ["ORACLE", "Loaded"]
Loaded = tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]


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


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_split` makes; a test that changes it takes a copy."""
    return make_split(tmp_path_factory.mktemp("split"))
