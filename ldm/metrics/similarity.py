"""Metrics that compare a feature of each frame: the accumulator that CLIP and EgoVLP share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import SIDES, Batch, Side
from ldm.metrics.metric import PerPair

# Features of the chosen frames of one side of a batch.
Embed = Callable[[Batch, Side, list[int]], Float[Tensor, "k d"]]


def cosine(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Cosine between rows, in [-1, 1]."""
    return functional.cosine_similarity(a, b, dim=-1)


class Similarity(PerPair):
    """Cosines between the features of generated frames and those of their targets.

    Args:
        embed: computes features.
        memory: where they are kept.
        keys: content that a feature follows from; by default the frame's own.
    """

    def __init__(
        self,
        embed: Embed,
        memory: Memory,
        keys: Callable[[Batch, Side], Sequence[str]] = Batch.hashes,
    ) -> None:
        def vectors(batch: Batch, side: Side) -> Float[Tensor, "b d"]:
            return memory.recall(
                memory.store(side), keys(batch, side), lambda chosen: embed(batch, side, chosen)
            )

        def score(batch: Batch) -> Float[Tensor, " b"]:
            return cosine(*(vectors(batch, side) for side in SIDES))

        super().__init__(score)
