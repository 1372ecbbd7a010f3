"""Frechet Inception distance between all generated frames and all targets. Published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from egogen.errors import UserError
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import Batch, Pairs, Side
from ldm.metrics.frames.protocol import Protocol
from ldm.metrics.frames.resize import resize
from ldm.metrics.metric import Accumulator, Metric, Result, Setting
from ldm.metrics.networks.weight_files import FETCH, INCEPTION, read_state
from ldm.metrics.similarity import Embed

SIDE = 299
FEWEST = 2


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
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not the weights of Inception ({reason}); fetch it by {FETCH}") from None
    made: nn.Module = network.eval().to(device)
    return made


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
    """Accumulates the moments of both sides, not their vectors.

    Args:
        embed: computes activations.
        memory: where they are kept.
    """

    def __init__(self, embed: Embed, memory: Memory) -> None:
        self.embed, self.memory = embed, memory
        self.generated: Moments | None = None
        self.reference: Moments | None = None

    def update(self, batch: Batch) -> None:
        """Takes a batch."""
        self.generated = self.added(self.generated, self.vectors(batch, "generated"))
        self.reference = self.added(self.reference, self.vectors(batch, "reference"))

    def vectors(self, batch: Batch, side: Side) -> Float[np.ndarray, "b d"]:
        """Activations of one side."""
        store, keys = self.memory.store(side), batch.hashes(side)
        return self.memory.recall(store, keys, lambda chosen: self.embed(batch, side, chosen)).numpy()

    @staticmethod
    def added(moments: Moments | None, vectors: Float[np.ndarray, "b d"]) -> Moments:
        """Moments with a batch more."""
        moments = moments or Moments.empty(vectors.shape[1])
        moments.add(vectors)
        return moments

    def compute(self) -> Result:
        """The distance over all batches so far; no frame has a value of its own."""
        a, b = self.generated, self.reference
        assert a is not None
        assert b is not None
        distance = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        return Result(distance, None, a.n, 0, distance, {})


def check_count(name: str, pairs: Pairs) -> None:
    """Refuses too few frames.

    Raises:
        UserError: there are too few for a covariance.
    """
    if len(pairs) < FEWEST:
        raise UserError(
            f"metric {name!r}: {len(pairs)} frame; it compares two sets, of at least {FEWEST} frames each"
        )


def begin(setting: Setting, pairs: Pairs, memory: Memory) -> Accumulator:
    """Opens the metric.

    Raises:
        UserError: there are too few frames for a covariance.
    """
    check_count("fid", pairs)
    path = setting.weights[INCEPTION.name]
    network = setting.once(str(path), lambda: load(path, setting.device))

    def embed(batch: Batch, side: Side, chosen: list[int]) -> Float[Tensor, "k d"]:
        with setting.autocast():
            return activations(network, batch.images(side)[chosen], setting.protocol)

    return Distance(embed, memory)


METRIC = Metric(
    name="fid",
    key="fid",
    title="FID",
    low=0.0,
    high=math.inf,
    unit="",
    better="lower",
    source="pytorch-fid's Inception, all frames against all targets",
    libraries=("pytorch-fid", "torchvision", "scipy"),
    open=begin,
    weights=lambda _: (INCEPTION,),
)
