"""The accumulator of the BLIP metrics: captions of generated frames, compared with texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import Batch
from ldm.metrics.metric import PerPair, Result, Setting
from ldm.metrics.networks.blip_captioner import Captioner
from ldm.metrics.networks.egovlp_model import EgoVLP
from ldm.metrics.similarity import cosine


class CaptionSimilarity(PerPair):
    """Captions each generated frame, then compares caption and text.

    Args:
        captioner: BLIP.
        network: EgoVLP, whose text tower compares.
        texts: what each frame should show, by its name.
        setting: of the evaluation.
        memory: where captions are kept, as token ids.
    """

    def __init__(
        self,
        captioner: Captioner,
        network: EgoVLP,
        texts: Mapping[str, str],
        setting: Setting,
        memory: Memory,
    ) -> None:
        super().__init__(self.score_batch)
        self.captioner, self.network, self.texts = captioner, network, texts
        self.setting, self.memory = setting, memory
        self.captions: dict[str, str] = {}

    def score_batch(self, batch: Batch) -> Float[Tensor, " b"]:
        """Cosines between the features of captions and texts, in [-1, 1]."""
        ids = self.memory.recall(
            self.memory.generated, batch.hashes("generated"), lambda chosen: self.caption(batch, chosen)
        )
        captions = {pair.frame: self.captioner.text(row) for pair, row in zip(batch.pairs, ids, strict=True)}
        self.captions |= captions
        texts = [self.texts[frame] for frame in captions]
        tokenizer = self.captioner.tokenizer
        return cosine(*(self.network.text(tokenizer, each) for each in (list(captions.values()), texts)))

    def caption(self, batch: Batch, chosen: list[int]) -> Int[Tensor, "k t"]:
        """Token ids of captions for the chosen generated frames."""
        frames = rearrange((batch.generated[chosen] * 255).round().byte(), "b c h w -> b h w c").cpu().numpy()
        pixels = torch.stack([self.captioner.pixels(np.ascontiguousarray(frame)) for frame in frames])
        with self.setting.autocast():
            return self.captioner.ids(pixels, self.setting.protocol)

    def compute(self) -> Result:
        """Mean and captions over all frames so far."""
        captions = {frame: self.captions[frame] for frame in sorted(self.captions)}
        return replace(super().compute(), captions=captions)
