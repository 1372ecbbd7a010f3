"""The two ways of measuring: as the published table was, and with its slips corrected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.metrics.frames.resize import resize
from ldm.metrics.metric_names import Precision, Protocol


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Sets how a GPU multiplies 32-bit numbers for as long as the block lasts.

    IEEE single precision, as on a CPU, unless `tf32` was asked for: cuDNN would take TF32 by itself.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


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
