"""Frechet Inception distance between all generated frames and all targets. Published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from egogen.errors import UserError
from ldm.metrics.accumulators import Vectors, features
from ldm.metrics.frames.frame_pairs import SIDES, PairBatch, Side
from ldm.metrics.frames.resize import resize
from ldm.metrics.metric import DISTANCE, Metric, Result
from ldm.metrics.metric_names import Protocol
from ldm.metrics.networks.metric_weights import FETCH, INCEPTION, read_state

SIDE = 299


@torch.no_grad()
def activations(
    network: nn.Module, images: Float[Tensor, "b 3 h w"], protocol: Protocol = "published"
) -> Float[Tensor, "b d"]:
    """What Inception sees in frames in [0, 1]: its pooled last layer.

    Both protocols squash frames to 299 x 299. Published: bilinear without antialiasing. Corrected: bicubic
    with antialiasing (Parmar et al. 2022).
    """
    if protocol == "published":
        squashed = resize(images, SIDE, SIDE, "bilinear", antialias=False)
    else:
        squashed = resize(images, SIDE, SIDE, "bicubic", antialias=True)
    return network(squashed)[0].flatten(1).float()


def load(path: Path, device: torch.device) -> nn.Module:
    """Inception as pytorch-fid builds it, on the weights that it publishes.

    Raises:
        UserError: the file is broken, or of another network.
    """
    # Takes seconds to import, so a wrong argument does not wait for it.
    from pytorch_fid import inception

    state = read_state(path)
    # The package knows only to download; it is handed the file instead, which it loads strictly.
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        try:
            network = inception.InceptionV3(resize_input=False)
        except RuntimeError as error:
            told = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not the weights of Inception ({told}); fetch it by {FETCH}") from None
    return network.eval().to(device)


@dataclass
class Moments:
    """Mean and scatter of vectors that come in batches, in float64 (Chan et al. 1979)."""

    n: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @classmethod
    def empty(cls, width: int) -> Moments:
        """Of no vectors."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(self, vectors: Float[np.ndarray, "b d"]) -> None:
        """Takes a batch."""
        values = vectors.astype(np.float64)
        mean = values.mean(0)
        centred = values - mean
        shift = mean - self.mean
        total = self.n + len(values)
        self.scatter += centred.T @ centred
        self.scatter += np.outer(shift, shift) * (self.n * len(values) / total)
        self.mean = self.mean + shift * (len(values) / total)
        self.n = total

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Unbiased covariance; needs two vectors."""
        return self.scatter / (self.n - 1)


def frechet_distance(
    mean_a: Float64[np.ndarray, " d"],
    covariance_a: Float64[np.ndarray, "d d"],
    mean_b: Float64[np.ndarray, " d"],
    covariance_b: Float64[np.ndarray, "d d"],
) -> float:
    """Squared Frechet distance of two Gaussians, |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2), at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which is symmetric: two
    symmetric eigenproblems, also where the covariances have no full rank. Directions in which A has no
    variance beyond rounding are left out; they add nothing. Source: Dowson and Landau 1982, Heusel et al.
    2017.
    """
    values, vectors = np.linalg.eigh(covariance_a)
    seen = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = vectors[:, seen] * np.sqrt(values[seen])  # [d, r]
    inner = np.linalg.eigvalsh(root.T @ covariance_b @ root) if seen.any() else np.zeros(1)
    # What is below rounding would be multiplied by its root.
    kept = inner[inner > max(inner[-1], 0) * len(inner) * np.finfo(np.float64).eps]
    trace = float(np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(kept).sum())
    return max(0.0, float(np.square(mean_a - mean_b).sum()) + trace)


class Distance:
    """Accumulates the moments of both sides, not their vectors; no frame has a value of its own."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.moments: dict[Side, Moments] = {}

    def update(self, batch: PairBatch) -> None:
        """Takes a batch."""
        for side in SIDES:
            found = self.vectors(batch, side).numpy()
            self.moments.setdefault(side, Moments.empty(found.shape[1])).add(found)

    def compute(self) -> Result:
        """The distance over all batches so far."""
        a, b = (self.moments[side] for side in SIDES)
        distance = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        return Result(distance, None, a.n, 0, distance)


METRIC = Metric(
    name="fid",
    title="FID",
    scale=DISTANCE,
    source="pytorch-fid's Inception, all frames against all targets",
    libraries=("pytorch-fid", "torchvision", "scipy"),
    open=lambda setting, _, memory: Distance(
        features(setting, memory, setting.network(INCEPTION, load), activations)
    ),
    weights=lambda _: (INCEPTION,),
    fewest=2,  # for a covariance
)
