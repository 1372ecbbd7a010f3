"""How far features are from what they stand for: largest and mean error, and its share of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Difference:
    """Sums over features; those of parts add up."""

    count: int = 0  # values
    largest: float = 0.0
    total: float = 0.0  # of |error|
    squares: float = 0.0  # of errors
    reference: float = 0.0  # squares of the values themselves

    @classmethod
    def of(cls, values: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "n d"]) -> Difference:
        """Compares two features of one shape."""
        exact = reference.astype(np.float32)
        error = np.abs(values.astype(np.float32) - exact)
        squares, whole = (float(np.square(part).sum(dtype=np.float64)) for part in (error, exact))
        return cls(
            error.size, float(error.max(initial=0)), float(error.sum(dtype=np.float64)), squares, whole
        )

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.count + other.count,
            max(self.largest, other.largest),
            self.total + other.total,
            self.squares + other.squares,
            self.reference + other.reference,
        )

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return self.total / max(1, self.count)

    @property
    def relative(self) -> float:
        """Root of the error's share of the sum of squares; float16 alone rounds to about 0.0003."""
        return sqrt(self.squares / self.reference) if self.reference else sqrt(self.squares)

    def __str__(self) -> str:
        return f"max error {self.largest:.3g}, mean {self.mean:.3g}, relative {self.relative:.3g}"
