"""The simplest yardstick: the source frame, unchanged, as the prediction."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def copy_frame(source: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The source frame at the size of a generated one."""
    resized = source.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized)
