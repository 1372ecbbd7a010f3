"""How metrics gather batches: scores of single pairs, which pixels or features of both sides give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ldm.metrics.feature_cache import Memory
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
        self.values: dict[str, float] = {}

    def update(self, batch: PairBatch) -> None:
        """Scores a batch.

        Raises:
            ValueError: a score is not a number.
        """
        for pair, value in zip(batch.pairs, self.score(batch).tolist(), strict=True):
            if math.isnan(value):
                raise ValueError(f"{pair.generated}: the score is not a number")
            self.values[pair.frame] = value

    def compute(self) -> Result:
        """Mean and standard error over all pairs."""
        values = dict(sorted(self.values.items()))
        finite = [value for value in values.values() if math.isfinite(value)]
        n, infinite = len(values), len(values) - len(finite)
        finite_mean = math.fsum(finite) / len(finite) if finite else None
        mean = math.inf if infinite or finite_mean is None else finite_mean
        error = None
        if n > 1 and not infinite:
            variance = math.fsum((value - mean) ** 2 for value in finite) / (n - 1)
            error = math.sqrt(variance / n)
        return Result(mean, error, n, infinite, finite_mean, values, dict(sorted(self.captions.items())))


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
