"""Rebuilds the recorded networks from their weights' names."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.checkpoints.writing import write
from ldm.diffusion.schedule import training_schedule
from ldm.networks.architecture import infer

ORACLE = Path(__file__).parents[1] / "oracle" / "ldm"
SALT = 0
THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def threads() -> None:
    """As many as at the start: a training sets its own number, by which later tests would be slow."""
    torch.set_num_threads(THREADS)


def normal(tag: str, shape: tuple[int, ...] | list[int]) -> torch.Tensor:
    draws = np.random.default_rng([zlib.crc32(tag.encode()), SALT]).standard_normal(shape)
    return torch.from_numpy(draws.astype(np.float32))


def weight(name: str, shape: list[int]) -> torch.Tensor:
    draws = normal(name, shape)
    if len(shape) <= 1:
        return 1 + 0.1 * draws if name.endswith("weight") else 0.05 * draws
    return draws / np.sqrt(np.prod(shape[1:]))


def oracle_state() -> dict[str, torch.Tensor]:
    keys: dict[str, Any] = json.loads(gzip.decompress((ORACLE / "keys.json.gz").read_bytes()))
    state = training_schedule()
    for name, (_, shape) in keys.items():
        if name.startswith("model_ema.") or "." not in name:
            continue
        if name.endswith("position_ids"):
            state[name] = torch.arange(77)[None]
        else:
            state[name] = weight(name, shape)
    for name, value in list(state.items()):
        if name.startswith("model."):
            short = name.removeprefix("model.")
            average = 0.9 * value + 0.1 * normal(f"ema.model.{short}", list(value.shape)) * value.std()
            state[f"model_ema.{short.replace('.', '')}"] = average
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(1, dtype=torch.int32)
    assert set(state) == set(keys)
    return state


@pytest.fixture(scope="session")
def oracle_ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oracle") / "lego_tiny.ckpt"
    write(path, oracle_state())
    return path


@pytest.fixture(scope="session")
def oracle_shape(oracle_ckpt: Path) -> Any:
    state = torch.load(oracle_ckpt, weights_only=True, mmap=True)["state_dict"]
    return infer(state, unet_heads=4)


@pytest.fixture(scope="session")
def outputs() -> Any:
    return np.load(ORACLE / "outputs.npz")


@pytest.fixture(scope="session")
def scalars() -> Any:
    return json.loads((ORACLE / "scalars.json").read_text())
