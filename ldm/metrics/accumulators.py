"""How metrics gather batches: scores of single pairs, which pixels or features of both sides give."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from egogen.errors import UserError
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_names import ByFrame, FrameNames
from ldm.metrics.frames.frame_pairs import SIDES, PairBatch, Side
from ldm.metrics.frames.protocol import match_size
from ldm.metrics.metric import MetricSetting, Result
from ldm.metrics.metric_names import Protocol

# Features of the chosen frames of one side of a batch; of all its frames.
Embed = Callable[[PairBatch, Side, list[int]], Float[Tensor, "k d"]]
Vectors = Callable[[PairBatch, Side], Float[Tensor, "b d"]]
Network = TypeVar("Network")


class PerPair:
    """Accumulates a score of single pairs; the mean is taken in float64, in the order of the frame names.

    Args:
        score: batch -> [b].
        captions: what the score saw in each frame, where it puts them down.
    """

    def __init__(
        self, score: Callable[[PairBatch], Float[Tensor, " b"]], captions: Mapping[str, str] | None = None
    ) -> None:
        self.score = score
        self.captions = {} if captions is None else captions
        self.names = FrameNames([])
        self.places, self.numbers = array("q"), array("d")  # of the pairs in the order of their batches

    def update(self, batch: PairBatch) -> None:
        """Scores a batch.

        Raises:
            UserError: a score is not a number.
        """
        found = self.score(batch).tolist()
        for pair, value in zip(batch.pairs, found, strict=True):
            if math.isnan(value):
                raise not_finite(f"{pair.generated}: the score is not a number")
        self.names = batch.names
        self.places.extend(batch.places)
        self.numbers.extend(found)

    def compute(self) -> Result:
        """Mean and standard error over all pairs."""
        values = of_places(self.names, self.places, self.numbers)
        finite = array("d", filter(math.isfinite, self.numbers))
        n, infinite = len(self.numbers), len(self.numbers) - len(finite)
        finite_mean = math.fsum(finite) / len(finite) if finite else None
        mean = math.inf if infinite or finite_mean is None else finite_mean
        error = None
        if n > 1 and not infinite:
            variance = math.fsum((value - mean) ** 2 for value in finite) / (n - 1)
            error = math.sqrt(variance / n)
        return Result(mean, error, n, infinite, finite_mean, values, dict(sorted(self.captions.items())))


def of_places(names: FrameNames, places: array[int], numbers: array[float]) -> ByFrame[float]:
    """Numbers of frames, which are at some places among all, by their names; 8 bytes each."""
    by_place = np.full(len(names), np.nan)
    by_place[np.asarray(places)] = numbers
    order = np.asarray(names.order)
    return ByFrame(names, by_place.item, array("i", order[~np.isnan(by_place[order])].tobytes()))


def not_finite(what: str) -> UserError:
    """What to do about a value that is no measurement."""
    return UserError(f"{what}; fetch the metric's weights again, or measure with --precision 32")


def paired(
    score: Callable[[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]], Float[Tensor, " b"]], memory: Memory
) -> PerPair:
    """A metric that compares pixels: generated frames are brought to the size of their targets."""

    def score_batch(batch: PairBatch) -> Float[Tensor, " b"]:
        keys = [f"{a}:{b}" for a, b in zip(*map(batch.hashes, SIDES), strict=True)]

        def compute(chosen: list[int]) -> Float[Tensor, "k 1"]:
            reference = batch.reference[chosen]
            return score(match_size(batch.generated[chosen], reference), reference)[:, None]

        return memory.recall(memory.generated, keys, compute).squeeze(1)

    return PerPair(score_batch)


def cosine(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Cosine between rows, in [-1, 1]."""
    return functional.cosine_similarity(a, b, dim=-1)


def remembered(
    embed: Embed, memory: Memory, keys: Callable[[PairBatch, Side], Sequence[str]] = PairBatch.hashes
) -> Vectors:
    """Features, computed where they are not kept by the keys: the content that each follows from."""
    return lambda batch, side: memory.recall(
        memory.store(side), keys(batch, side), partial(embed, batch, side)
    )


def features(
    setting: MetricSetting,
    memory: Memory,
    network: Network,
    embed: Callable[[Network, Float[Tensor, "k 3 h w"], Protocol], Float[Tensor, "k d"]],
) -> Vectors:
    """What a network sees in frames, in the precision and under the protocol of an evaluation."""

    def chosen_features(batch: PairBatch, side: Side, chosen: list[int]) -> Float[Tensor, "k d"]:
        with setting.autocast():
            return embed(network, batch.images(side)[chosen], setting.protocol)

    return remembered(chosen_features, memory)


def similarity(vectors: Vectors) -> PerPair:
    """A metric that is the cosine between the features of generated frames and those of their targets."""
    return PerPair(lambda batch: cosine(*(vectors(batch, side) for side in SIDES)))
