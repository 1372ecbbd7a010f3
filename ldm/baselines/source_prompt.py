"""What ProxEdit takes for the prompt of a source frame; none was ever published for this data (F-BL-08)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from egogen.errors import UserError
from egogen.layout import weights_root
from ldm.config.baselines import ProxConfig
from ldm.metrics.networks.metric_weights import BLIP, FETCH, VOCABULARY, locate
from ldm.networks.pixels import to_frame

SourcePrompts = Callable[[Float[Tensor, "b 3 r r"]], list[str]]  # of source frames in [-1, 1]
BERT_WORDS = 30522


def source_prompts(settings: ProxConfig, device: torch.device) -> SourcePrompts:
    """Finds source prompts as `source_prompt` says: "", a fixed text, or BLIP's caption of the frame.

    Raises:
        UserError: captions are asked for, and BLIP's files are missing or broken.
    """
    if settings.source_prompt != "caption":
        return lambda frames: [settings.source_text] * len(frames)
    root, wanted = weights_root(), (BLIP["base"], VOCABULARY)
    weights, vocabulary = (locate(root, file) for file in wanted)
    if weights is None or vocabulary is None:
        names = " and ".join(f"{file.name} ({file.size})" for file in wanted)
        raise UserError(
            f"{root}: source_prompt=caption needs BLIP, {names}; fetch them by {FETCH}, name their folder by "
            "WEIGHTS_ROOT, or set source_prompt to empty or fixed"
        )
    # They take seconds to import.
    from ldm.metrics.networks.blip_captioner import load_captioner
    from ldm.metrics.networks.egovlp_model import load_tokenizer

    captioner = load_captioner(weights, load_tokenizer(vocabulary, BERT_WORDS), device)

    def describe(frames: Float[Tensor, "b 3 r r"]) -> list[str]:
        side = frames.shape[-1]
        pixels = torch.stack([captioner.pixels(to_frame(frame, side, side, "clamp")) for frame in frames])
        return [captioner.text(ids).strip() for ids in captioner.ids(pixels, "corrected")]

    return describe
