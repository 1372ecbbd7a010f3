"""What is measured of the data: every file of a toy world."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from tests.safety_net.record import EXACT_ONLY, Net, sha256


def files(net: Net) -> dict[str, Any]:
    """Hash of every file; of frames also mean and deviation of their pixels."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in net.world.rglob("*") if path.is_file()):
        entry = found[path.relative_to(net.world).as_posix()] = {EXACT_ONLY: sha256(path.read_bytes())}
        if path.suffix == ".jpg":
            pixels = np.asarray(Image.open(path), np.float64)
            entry |= {"mean": float(pixels.mean()), "deviation": float(pixels.std())}  # type: ignore[dict-item]
    return found


class DataNet(Net):
    """The toy world."""

    name = "data"
    libraries = ("numpy", "pillow")
    sections: ClassVar = {"files": files}
