"""How a shard keeps the rows of a feature: in float16, or in 8 bits with a scale for each row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int8

from egogen.features.npy import as_half
from egogen.features.store_names import RowType

LARGEST = 127  # of 8 bits with a sign, symmetric


def encode(values: np.ndarray, row_type: RowType, where: Path | str) -> dict[str, np.ndarray]:
    """A feature [n, d] as the arrays that are stored.

    Raises:
        ValueError: it is not two-dimensional, or a value does not fit float16.
    """
    half = as_half(values, where)
    if row_type == "float16":
        return {"rows": half}
    rows, scale = quantize(half.astype(np.float32))
    return {"rows": rows, "scale": scale}


def decode(get: Callable[[str], np.ndarray], row_type: str) -> Float[np.ndarray, "n d"]:
    """The feature, float16 or float32, from its stored arrays."""
    return get("rows") if row_type == "float16" else dequantize(get("rows"), get("scale"))


def quantize(values: Float32[np.ndarray, "n d"]) -> tuple[Int8[np.ndarray, "n d"], Float32[np.ndarray, " n"]]:
    """Whole numbers, and a scale for each row: an error is at most half a scale, |row|_max / 254."""
    scale = np.abs(values).max(axis=1) / np.float32(LARGEST)
    scale[scale == 0] = 1
    return np.rint(values / scale[:, None]).astype(np.int8), scale


def dequantize(rows: Int8[np.ndarray, "n d"], scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
    """Undoes `quantize`."""
    return rows * scale[:, None]
