"""Pictures for people: a grid of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def grid_of(columns: Sequence[Float[Tensor, "b 3 h w"]], gap: int = 2) -> Image.Image:
    """Lays columns of frames in [-1, 1] side by side, one row a sample, on white."""
    frames = torch.stack([column.float().cpu() for column in columns], dim=1)  # b n 3 h w
    padded = torch.nn.functional.pad(frames, [0, gap, 0, gap], value=1.0)
    rows, across, _, height, width = padded.shape
    sheet = padded.permute(0, 3, 1, 4, 2).reshape(rows * height, across * width, 3)
    return Image.fromarray(((sheet + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8))
