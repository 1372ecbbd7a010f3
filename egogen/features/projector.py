"""Stage 1's projector, one Linear from CLIP's patches to image features, and its inverse on features.

H = X W^T + b with W [d, v]. The published W [5120, 1024] has full column rank, so X = (H - b) (W^+)^T.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, Float32
from safetensors.numpy import save

from egogen.errors import UserError
from egogen.features.difference import Difference
from egogen.features.store_names import SUFFIXES
from egogen.features.weight_files import read_tensors, weight_files
from egogen.files import atomic_open
from egogen.manifest import file_hash

# Singular values below this share of the largest leave no trace in float16 features.
SMALLEST = 1e-6


@dataclass(frozen=True)
class Projector:
    """Weight and bias of the Linear."""

    weight: Float32[np.ndarray, "d v"]
    bias: Float32[np.ndarray, " d"]

    def features(self, patches: Float[np.ndarray, "p v"]) -> Float32[np.ndarray, "p d"]:
        """Image features of patches."""
        return patches.astype(np.float32) @ self.weight.T + self.bias

    def patches(self, features: Float[np.ndarray, "p d"]) -> Float16[np.ndarray, "p v"]:
        """Patches of image features, by least squares.

        Raises:
            FloatingPointError: they do not fit float16: these are no features of this projector.
        """
        with np.errstate(over="raise", invalid="raise"):
            return ((features.astype(np.float32) - self.bias) @ self.inverse).astype(np.float16)

    @cached_property
    def inverse(self) -> Float32[np.ndarray, "d v"]:
        """The transposed pseudo-inverse of the weight."""
        return np.linalg.pinv(self.weight.astype(np.float64), rcond=SMALLEST).T.astype(np.float32)

    def recover(self, features: Float16[np.ndarray, "p d"]) -> tuple[Float16[np.ndarray, "p v"], Difference]:
        """Patches of image features, and how far the features that they give are from these.

        Raises:
            ValueError: the features have another width.
            FloatingPointError: see `patches`.
        """
        if features.shape[1] != len(self.bias):
            raise ValueError(f"features are {features.shape}, the projector gives width {len(self.bias)}")
        patches = self.patches(features)
        return patches, Difference.of(self.features(patches), features)

    @cached_property
    def content(self) -> bytes:
        """The projector as a safetensors file; the same values give the same bytes."""
        return save({"weight": np.ascontiguousarray(self.weight), "bias": self.bias})

    @property
    def digest(self) -> str:
        """SHA-256 of that file."""
        return hashlib.sha256(self.content).hexdigest()

    def write(self, path: Path) -> None:
        """Writes it atomically; one that is there is left alone.

        Raises:
            UserError: another projector is there.
        """
        if not path.exists():
            with atomic_open(path) as file:
                file.write(self.content)
        elif file_hash(path) != self.digest:
            raise UserError(
                f"{path}: another projector than this run's, or damaged; delete it, or its folder"
            )


def read_projector(path: Path) -> Projector:
    """Reads a projector from a file of weights, or from the first file of a checkpoint folder that holds it.

    Names are `weight` and `bias`, or end so after `mm_projector.` or `multi_modal_projector.`.

    Raises:
        UserError: unreadable, no projector in it, or not LEGO's single Linear.
    """
    seen: list[str] = []
    for file in weight_files(path):
        tensors = read_tensors(file)
        weights = [name for name in tensors if is_of_projector(name, "weight")]
        biases = [name for name in tensors if is_of_projector(name, "bias")]
        if len(weights) == len(biases) == 1:
            return checked(tensors[weights[0]](), tensors[biases[0]](), file)
        seen += weights
    what = f"found {', '.join(seen)}" if seen else "found no such weights"
    raise UserError(
        f"{path}: {what}, expected one Linear, mm_projector.weight and .bias or multi_modal_projector's, in "
        f"a {SUFFIXES} file or a folder of such files"
    )


def is_of_projector(name: str, part: str) -> bool:
    """Whether a tensor is a projector's weight, or bias, by its name."""
    return name == part or ("projector." in name and name.endswith(f".{part}"))


def checked(weight: np.ndarray, bias: np.ndarray, path: Path) -> Projector:
    """A projector of fitting shapes.

    Raises:
        UserError: they do not fit.
    """
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not np.isfinite(weight).all():
        raise UserError(
            f"{path}: the projector's weight is {weight.shape} and its bias {bias.shape}, expected finite "
            "values of shapes (d, v) and (d,)"
        )
    return Projector(weight.astype(np.float32), bias.astype(np.float32))
