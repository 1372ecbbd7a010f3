"""How sharp a frame is: choosing the sharpest of neighbours leaves motion blur out."""

from __future__ import annotations

import numpy as np
from PIL import Image


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey image, in squared grey levels; 0 where nothing changes."""
    grey = np.asarray(image.convert("L"), np.float32)
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())
