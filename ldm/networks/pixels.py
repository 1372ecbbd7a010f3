"""Frames to tensors and back: the training pair's preparation and the published post-processing."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ldm.diffusion.choices import OutputRange


def to_model(image: Image.Image, resolution: int) -> Float[Tensor, "3 r r"]:
    """Squashes a frame to a square (Lanczos, the aspect ratio is lost as published); values in [-1, 1]."""
    squashed = image.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
    return rearrange(torch.from_numpy(np.array(squashed)), "h w c -> c h w").float() / 127.5 - 1


def frame_size(side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a generated frame: the model's height, and the clip's aspect ratio (published)."""
    return side, max(1, round(width / height * side))


def to_frame(
    decoded: Float[Tensor, "3 r r"],
    height: int,
    width: int,
    output_range: OutputRange,
    side: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Undoes the squash and makes bytes, as published.

    Bicubic resize without antialiasing (with it to a smaller height) to the model's height and
    `round(width / height * that)`; then `stretch` maps the frame's own minimum and maximum to 0 and 255
    (published), `clamp` maps -1 and 1 (F-S2-02). Fractions are cut off.

    Args:
        decoded: the VAE's output, about [-1, 1].
        height: of the clip, in pixels; only the ratio to `width` counts.
        width: of the clip.
        output_range: `stretch` or `clamp`.
        side: the frame's height; by default the model's.
    """
    side = side or decoded.shape[-2]
    size, smaller = frame_size(side, height, width), side < decoded.shape[-2]
    frame = functional.interpolate(decoded[None].float(), size, mode="bicubic", antialias=smaller)[0]  # 3 h w
    low, high = (frame.min(), frame.max()) if output_range == "stretch" else (-1.0, 1.0)
    unit = ((frame - low) / max(float(high - low), 1e-8)).clamp(0, 1)
    return rearrange((unit * 255).to(torch.uint8), "c h w -> h w c").cpu().numpy()
