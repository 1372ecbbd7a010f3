"""PSNR and SSIM inside the box that an action changes. Not in the published table.

Most pixels of a frame are the same before and during an action, so a copy of the frame before is near the
true one by PSNR and SSIM, although it shows no action. Inside the box nothing speaks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldm.metrics.accumulators import PerPair
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.contexts import Context, contexts_digest, sources_of
from ldm.metrics.frames.frame_pairs import SIDES, PairBatch, Pairs
from ldm.metrics.frames.images import read_image
from ldm.metrics.frames.protocol import check_shapes, match_size
from ldm.metrics.metric import Metric, MetricSetting, Scale
from ldm.metrics.ssim import ssim_map

# By how much of the whole range a pixel differs in some channel where the action changes it: above what JPEG
# does to a pixel beside an edge, below the contrast of a hand on what is behind it.
THRESHOLD = 0.1
Score = Callable[
    [Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]], Float[Tensor, " b"]
]


def changed_box(source: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
    """The smallest rectangle that holds all pixels in which two frames in [0, 1] differ, as a mask.

    A pixel differs if some channel does by more than `THRESHOLD`. Of frames without such pixels the box is
    the whole frame.
    """
    differs = (source - target).abs().amax(1) > THRESHOLD  # b h w
    box = spanned(differs.any(2))[:, :, None] & spanned(differs.any(1))[:, None, :]
    return box | ~differs.any((1, 2), keepdim=True)


def spanned(marks: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Everything from the first mark to the last."""
    counts = marks.cumsum(1)
    return (counts > 0) & (counts - marks.long() < counts[:, -1:])


def inside(values: Float[Tensor, "b 3 h w"], box: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """The mean of values over the channels and the pixels of a box."""
    return (values.mean(1) * box).sum((1, 2)) / box.sum((1, 2))


def psnr(
    generated: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    source: Float[Tensor, "b 3 h w"],
) -> Float[Tensor, " b"]:
    """PSNR of each image over the pixels of the box, in dB; infinite where they are identical.

    All in [0, 1]. As `ldm.metrics.psnr.score`, of which it is the value where the box is the whole frame.

    Raises:
        ValueError: their shapes differ.
    """
    check_shapes(generated, reference)
    return -10 * torch.log10(inside((generated - reference) ** 2, changed_box(source, reference)))


def ssim(
    generated: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    source: Float[Tensor, "b 3 h w"],
) -> Float[Tensor, " b"]:
    """SSIM of each image over the pixels of the box, in [-1, 1]; the windows of its rim reach beyond it.

    All in [0, 1]. As `ldm.metrics.ssim.score`, of which it is the value where the box is the whole frame.

    Raises:
        ValueError: a side has fewer than 6 pixels.
    """
    return inside(ssim_map(generated, reference), changed_box(source, reference))


def begin(setting: MetricSetting, pairs: Pairs, memory: Memory, score: Score) -> PerPair:
    """Opens a metric; raises as `sources_of`."""
    sources = sources_of(pairs, setting)

    def score_batch(batch: PairBatch) -> Float[Tensor, " b"]:
        shown = [sources[pair.frame] for pair in batch.pairs]
        keys = [":".join(parts) for parts in zip(digests(shown), *map(batch.hashes, SIDES), strict=True)]

        def compute(chosen: list[int]) -> Float[Tensor, "k 1"]:
            reference = batch.reference[chosen]
            before = [match_size(read_source(shown[index], setting), reference[:1]) for index in chosen]
            generated = match_size(batch.generated[chosen], reference)
            return score(generated, reference, torch.cat(before))[:, None]

        return memory.recall(memory.generated, keys, compute).squeeze(1)

    return PerPair(score_batch)


def digests(sources: list[Context]) -> list[str]:
    """What the frames before the actions are known by."""
    return [source.sha256 for source in sources]


def read_source(source: Context, setting: MetricSetting) -> Float[Tensor, "1 3 h w"]:
    """The frame before an action."""
    return read_image(source.path).to(setting.device)[None]


def make(name: str, title: str, scale: Scale, score: Score) -> Metric:
    """PSNR or SSIM."""
    return Metric(
        name=name,
        title=title,
        scale=scale,
        source="inside the smallest rectangle with all pixels in which the frame before the action and the "
        f"target differ by more than {THRESHOLD} of the range",
        libraries=("torchmetrics",),
        open=partial(begin, score=score),
        inputs=lambda setting, pairs: {"sources_sha256": contexts_digest(sources_of(pairs, setting))},
    )


METRICS = (
    make("psnr_box", "PSNR in box", Scale(0.0, math.inf, "higher", "dB"), psnr),
    make("ssim_box", "SSIM in box", Scale(-1.0, 1.0, "higher"), ssim),
)
