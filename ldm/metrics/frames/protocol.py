"""The two ways of measuring: as the published table was, and with its slips corrected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from egogen.errors import UserError
from ldm.metrics.frames.resize import resize
from ldm.metrics.metric_names import AUTO, PRECISIONS, Precision, Protocol, choice
from ldm.networks.precision import has_tiles

PRODUCTS = {"tf32": "high", "tiles": "medium"}  # torch's names of what multiplies 32-bit numbers


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """What `--precision` means on a device; `auto` is `32` where nothing is faster.

    Raises:
        UserError: the device has no such thing, or there is none.
    """
    choice("precision", wanted, PRECISIONS)
    if wanted == AUTO:
        on_tiles = device.type == "cpu" and has_tiles()
        return "tiles" if on_tiles else "32"
    if wanted == "tiles" and (device.type != "cpu" or not has_tiles()):
        raise UserError(f"precision 'tiles': {device} has none; allowed here are 32, tf32, bf16 and auto")
    return choice("precision", wanted, get_args(Precision))


@contextmanager
def fewer_bits(precision: Precision) -> Iterator[None]:
    """Sets how 32-bit numbers are multiplied for as long as the block lasts.

    IEEE single precision unless `tf32` or `tiles` was asked for: cuDNN would take TF32 by itself.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision(PRODUCTS.get(precision, "highest"))
    cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def size_tolerance(protocol: Protocol, dataset: str) -> int:
    """By how many pixels a generated frame's height and width may differ from its target's.

    EPIC-KITCHENS videos are 455 or 456 wide at height 256, so the published code resizes the generated
    frame there, by any amount; here one pixel is the most, and none in the corrected protocol (F-EV-04).
    """
    return 1 if protocol == "published" and dataset == "epickitchen" else 0


def match_size(
    generated: Float[Tensor, "b 3 h1 w1"], reference: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Generated frames at the size of their targets: bilinear without antialias, as published."""
    if generated.shape == reference.shape:
        return generated
    height, width = reference.shape[-2:]
    return resize(generated, height, width, "bilinear", antialias=False)


def check_shapes(generated: Float[Tensor, "..."], reference: Float[Tensor, "..."]) -> None:
    """Compares the shapes of two batches; broadcasting would score grey frames wrongly (F-EV-02).

    Raises:
        ValueError: they differ.
    """
    if generated.shape != reference.shape:
        raise ValueError(
            f"generated frames of shape {tuple(generated.shape)}, targets of {tuple(reference.shape)}; "
            "expected both as [b, 3, h, w]"
        )
