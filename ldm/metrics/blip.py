"""BLIP caption similarity: how well a caption of the frame fits the action's text. Published."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from egogen.blocks import in_blocks
from egogen.errors import UserError
from ldm.metrics.accumulators import PerPair, cosine
from ldm.metrics.egovlp import open_network
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_names import ByFrame
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.metric import COSINE, Accumulator, Metric, MetricSetting
from ldm.metrics.networks.metric_weights import BLIP, EGOVLP, VOCABULARY
from ldm.networks.text import count_longer

Size = Literal["base", "large"]
log = logging.getLogger(__name__)


def texts_of(pairs: Pairs, key: str) -> Mapping[str, str]:
    """The text that each frame should show, by its name.

    Raises:
        UserError: an action has none.
    """
    items = pairs.pairs.items
    absent = [place for place, item in enumerate(items) if not item.action.text(key)]
    if absent:
        first = items[absent[0]]
        raise UserError(
            f"{pairs.source}: {len(absent)} of {len(pairs)} actions, {first.clip}/{first.id} first, "
            f"have no text under {key!r}, with which captions are compared; name another by --llava_key, "
            "merge the descriptions by python -m llava.merge, or leave the BLIP metrics out of --metrics"
        )
    return ByFrame(pairs.pairs.names, lambda place: items[place].action.text(key) or "")


def begin(size: Size, setting: MetricSetting, pairs: Pairs, memory: Memory) -> Accumulator:
    """Opens the metric; a `UserError` tells of an action without a text."""
    texts = texts_of(pairs, setting.llava_key)
    # They take seconds to import, so a wrong argument does not wait for them.
    from ldm.metrics.networks.blip_captioner import load_captioner
    from ldm.metrics.networks.egovlp_model import load_tokenizer

    network = open_network(setting)
    tokenizer = load_tokenizer(setting.weights[VOCABULARY.name], network.text_model.config.vocab_size)
    captioner = setting.network(BLIP[size], lambda path, device: load_captioner(path, tokenizer, device))
    most = network.text_model.config.max_position_embeddings
    every = (item.action.text(setting.llava_key) or "" for item in pairs.pairs.items)
    if longer := sum(count_longer(tokenizer, some, most) for some in in_blocks(every)):
        log.warning("%d of %d texts are longer than EgoVLP's %d tokens and are cut", longer, len(texts), most)
    captions: dict[str, str] = {}

    def ids(batch: PairBatch, chosen: list[int]) -> Int[Tensor, "k t"]:
        """Token ids of captions of the chosen generated frames."""
        frames = rearrange((batch.generated[chosen] * 255).round().byte(), "b c h w -> b h w c").cpu().numpy()
        pixels = torch.stack([captioner.pixels(np.ascontiguousarray(frame)) for frame in frames])
        with setting.autocast():
            return captioner.ids(pixels, setting.protocol)

    def score(batch: PairBatch) -> Float[Tensor, " b"]:
        """Cosines between the features of captions and texts, in [-1, 1]."""
        rows = memory.recall(memory.generated, batch.hashes("generated"), partial(ids, batch))
        seen = {pair.frame: captioner.text(row) for pair, row in zip(batch.pairs, rows, strict=True)}
        captions.update(seen)
        wanted = [texts[frame] for frame in seen]
        return cosine(*(network.text(tokenizer, each) for each in (list(seen.values()), wanted)))

    return PerPair(score, captions)


def metric(size: Size) -> Metric:
    """The metric with one size of BLIP."""
    return Metric(
        name=f"blip_{size}",
        title=f"BLIP-{size[0].upper()}",
        scale=COSINE,
        source="cosine of EgoVLP's text features of BLIP's caption and of the action's text",
        libraries=("transformers",),
        open=partial(begin, size),
        weights=lambda setting: (BLIP[size], EGOVLP[setting.dataset], VOCABULARY),
        inputs=lambda setting, pairs: {
            "llava_key": setting.llava_key, "texts_sha256": pairs.texts_sha256(setting.llava_key)
        },
    )  # fmt: skip


METRICS = [metric("base"), metric("large")]
