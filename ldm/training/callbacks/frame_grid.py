"""Pictures for people: a grid of frames, with a text below each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

# Pillow's own font: pixels to a character and to a line.
CHARACTER, LINE = 6, 12


def grid_of(
    columns: Sequence[Float[Tensor, "b 3 h w"]], captions: Sequence[str] = (), gap: int = 2
) -> Image.Image:
    """Lays columns of frames in [-1, 1] side by side, one row a sample, on white.

    Args:
        columns: frames of the same samples.
        captions: a text for each row, below it; none leaves no room for them.
        gap: pixels between frames.
    """
    frames = torch.stack([column.float().cpu() for column in columns], dim=1)  # b n 3 h w
    padded = torch.nn.functional.pad(frames, [0, gap, 0, gap], value=1.0)
    strips = rearrange(padded, "b n c h w -> b h (n w) c")
    rows, height, across, _ = strips.shape
    pixels = ((strips + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)
    lines = [textwrap.wrap(text, max(1, across // CHARACTER)) for text in captions]
    room = LINE * max((len(text) for text in lines), default=0)
    sheet = Image.new("RGB", (across, rows * (height + room)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, strip in enumerate(pixels):
        top = row * (height + room)
        sheet.paste(Image.fromarray(strip), (0, top))
        for number, line in enumerate(lines[row] if lines else ()):
            draw.text((0, top + height + number * LINE), line, fill="black")
    return sheet
