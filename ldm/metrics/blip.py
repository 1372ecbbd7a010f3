"""BLIP caption similarity: how well a caption of the frame fits the action's text. Published."""

from __future__ import annotations

from functools import partial
from typing import Literal

from egogen.errors import UserError
from ldm.metrics.egovlp import open_network
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.metric import Accumulator, Metric, Setting
from ldm.metrics.networks.weight_files import BLIP, EGOVLP, VOCABULARY

Size = Literal["base", "large"]


def texts_of(pairs: Pairs, key: str) -> dict[str, str]:
    """The text that each frame should show, by its name.

    Raises:
        UserError: an action has none.
    """
    texts = {pair.frame: pair.item.action.text(key) for pair in pairs.pairs}
    absent = [pair.item for pair in pairs.pairs if not texts[pair.frame]]
    if absent:
        raise UserError(
            f"{pairs.source}: {len(absent)} of {len(texts)} actions, {absent[0].clip}/{absent[0].id} first, "
            f"have no text under {key!r}, with which captions are compared; name another by --llava_key, "
            "merge the descriptions by python -m llava.merge, or leave the BLIP metrics out of --metrics"
        )
    return {frame: text for frame, text in texts.items() if text}


def begin(size: Size, setting: Setting, pairs: Pairs, memory: Memory) -> Accumulator:
    """Opens the metric.

    Raises:
        UserError: an action has no text.
    """
    texts = texts_of(pairs, setting.llava_key)
    # Takes seconds to import, so a wrong argument does not wait for it.
    from ldm.metrics.caption_similarity import CaptionSimilarity
    from ldm.metrics.networks.blip_captioner import load_captioner
    from ldm.metrics.networks.egovlp_model import load_tokenizer

    network = open_network(setting)
    known = network.text_model.config.vocab_size
    tokenizer = load_tokenizer(setting.weights[VOCABULARY.name], known)
    path = setting.weights[BLIP[size].name]
    captioner = setting.once(str(path), lambda: load_captioner(path, tokenizer, setting.device))
    return CaptionSimilarity(captioner, network, texts, setting, memory)


def metric(size: Size) -> Metric:
    """The metric with one size of BLIP."""
    return Metric(
        name=f"blip_{size}",
        key=f"blip_{size}_egovlp_sim",
        title=f"BLIP-{size[0].upper()}",
        low=-1.0,
        high=1.0,
        unit="",
        times=100,
        better="higher",
        source="cosine of EgoVLP's text features of BLIP's caption and of the action's text",
        libraries=("transformers",),
        open=partial(begin, size),
        weights=lambda setting: (BLIP[size], EGOVLP[setting.dataset], VOCABULARY),
        inputs=lambda setting, pairs: {
            "llava_key": setting.llava_key, "texts_sha256": pairs.texts_sha256(setting.llava_key)
        },
    )  # fmt: skip


METRICS = [metric("base"), metric("large")]
