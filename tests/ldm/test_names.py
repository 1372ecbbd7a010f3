"""Every tensor of the published files is accounted for, with its shape, on the meta device."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace

import pytest
import torch

from ldm.checkpoints.published_names import KNOWN_EXTRAS, ema_name, published_names
from ldm.networks.architecture import build, infer
from ldm.networks.shapes import Architecture
from tests.ldm.conftest import ORACLE


@pytest.mark.parametrize(("file", "channels"), [("full_lego_keys", 8), ("full_sd15_keys", 4)])
def test_all_keys_and_shapes(file: str, channels: int) -> None:
    shapes = json.loads(gzip.decompress((ORACLE / f"{file}.json.gz").read_bytes()))
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    shape = infer(state)
    assert shape.unet.in_channels == channels
    shape = replace(shape, unet=replace(shape.unet, in_channels=8))
    assert shape == Architecture()
    with torch.device("meta"):
        parts = build(Architecture(), conditioner=channels == 8)
    names = published_names(parts, shape)
    known = set(names.values()) | {ema_name(name) for name in names.values()} | KNOWN_EXTRAS
    assert set(shapes) <= known
    assert set(names.values()) <= set(shapes)
    for label, module in parts._asdict().items():
        for own, value in module.state_dict().items() if module is not None else ():
            expected = shapes[names[f"{label}.{own}"]]
            if names[f"{label}.{own}"].endswith("input_blocks.0.0.weight"):
                expected = [320, 8, 3, 3]
            assert list(value.shape) == expected[: value.ndim]
            assert value.numel() == torch.Size(expected).numel()


def test_sizes_survive_as_plain_data() -> None:
    assert Architecture(**asdict(Architecture())) == Architecture()
