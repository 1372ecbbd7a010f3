"""Rebuilds the recorded Stable Diffusion from its weights' names (tests/oracle/baselines)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape

ORACLE = Path(__file__).parents[2] / "oracle" / "baselines"
SALT = 11
SHAPE = Architecture(
    unet=UNetShape([32, 64, 128, 128], [True, True, True, False], 2, 4, in_channels=4),
    vae=VAEShape([32, 64, 128, 128], 1),
    text=TextShape(768, 2, 12, 256),
)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([zlib.crc32(name.encode()), SALT]).standard_normal(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = draw(name, shape)
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.05 * values
    values = values / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    if name.startswith("unet.") and name.endswith(("to_q.weight", "to_k.weight")):
        values *= 2
    if name == "unet.conv_out.weight":
        values *= 0.05
    if name == "vae.quant_conv.weight":
        values[:4] *= 12
    return values


def fill(part: str, module: nn.Module) -> None:
    for own, value in module.state_dict().items():
        # transformers 5 dropped this prefix along the way.
        known = own if part != "text_encoder" or own.startswith("text_model.") else f"text_model.{own}"
        value.copy_(torch.from_numpy(weight(f"{part}.{known}", tuple(value.shape))))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Such small networks gain nothing by more, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spec() -> Any:
    return json.loads((ORACLE / "spec.json").read_text())


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Any]:
    return lambda name: np.load(ORACLE / f"{name}.npz")


def networks() -> StableDiffusion:
    parts = build(SHAPE, conditioner=False)
    for name in ("unet", "vae", "text_encoder"):
        fill(name, getattr(parts, name))
    return StableDiffusion(parts)


@pytest.fixture(scope="session")
def single() -> StableDiffusion:
    """In 32 bits."""
    return networks()


@pytest.fixture(scope="session")
def double() -> StableDiffusion:
    """In 64 bits."""
    made = networks()
    for module in (made.unet, made.vae, made.text_encoder):
        module.double()
    return made


def image(recorded: Any) -> Tensor:
    """The recorded frame, in [-1, 1]."""
    return torch.from_numpy(recorded("proxnpi")["image_u8"]).permute(2, 0, 1)[None].double() / 127.5 - 1
