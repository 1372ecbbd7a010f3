"""EgoVLP+ similarity: as EgoVLP, after the frame before the action. Published."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.metrics.accumulators import cosine, remembered, similarity
from ldm.metrics.egovlp import FRAMES, VideoEncoder, open_network, prepare
from ldm.metrics.egovlp import METRIC as EGOVLP_METRIC
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.contexts import contexts_of, contexts_sha256
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs, Side
from ldm.metrics.frames.images import read_image
from ldm.metrics.frames.protocol import match_size
from ldm.metrics.metric import Accumulator, MetricSetting
from ldm.metrics.metric_names import Protocol


def score(
    generated: Float[Tensor, "b 3 h1 w1"],
    reference: Float[Tensor, "b 3 h w"],
    context: Float[Tensor, "b 3 h2 w2"],
    network: VideoEncoder,
    frames: int,
    protocol: Protocol = "published",
) -> Float[Tensor, " b"]:
    """Cosine between the video features of each pair, in [-1, 1]; 1 for identical images.

    Frames in [0, 1], brought to the size of the context, the frames before the actions, which the first half
    of each clip of `frames` shows. `network` as `ldm.metrics.egovlp.score` takes it. Source: as there.
    """
    clips = (halves(images, context, network.side, protocol) for images in (generated, reference))
    return cosine(*(network.video(clip.repeat_interleave(frames // 2, dim=1)) for clip in clips))


def halves(
    images: Float[Tensor, "b 3 h w"], context: Float[Tensor, "b 3 h2 w2"], side: int, protocol: Protocol
) -> Float[Tensor, "b 2 3 s s"]:
    """The two pictures of each clip: the context, then the image at the context's size, as published."""
    return torch.stack(
        [prepare(part, side, protocol) for part in (context, match_size(images, context))], dim=1
    )


def begin(setting: MetricSetting, pairs: Pairs, memory: Memory) -> Accumulator:
    """Opens the metric; raises as `find_contexts`."""
    contexts = contexts_of(pairs, setting)
    frames = FRAMES[setting.dataset]
    network = open_network(setting)

    def embed(batch: PairBatch, side: Side, chosen: list[int]) -> Float[Tensor, "k d"]:
        # One by one, since the contexts of a batch may differ in size.
        shown = [
            halves(
                batch.images(side)[index][None],
                read_image(contexts[batch.pairs[index].frame].path).to(setting.device)[None],
                network.side,
                setting.protocol,
            )
            for index in chosen
        ]
        with setting.autocast():
            return network.video(torch.cat(shown).repeat_interleave(frames // 2, dim=1))

    def keys(batch: PairBatch, side: Side) -> list[str]:
        before = [contexts[pair.frame].sha256 for pair in batch.pairs]
        return [f"{a}+{b}" for a, b in zip(before, batch.hashes(side), strict=True)]

    return similarity(remembered(embed, memory, keys))


METRIC = replace(
    EGOVLP_METRIC,
    name="egovlp_plus",
    title="EgoVLP+",
    source="as EgoVLP, the first half of each clip showing the frame before the action",
    open=begin,
    inputs=lambda setting, pairs: {"contexts_sha256": contexts_sha256(pairs, setting)},
)
