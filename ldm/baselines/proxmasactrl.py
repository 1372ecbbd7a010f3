"""ProxMasaCtrl (Han et al. 2024): mutual self-attention with proximal guidance, for changes of layout."""

from __future__ import annotations

import torch

from egogen.errors import UserError
from ldm.baselines.control import attention_layers
from ldm.baselines.mutual_attention import MutualSelfAttention
from ldm.baselines.pair_edit import Embeddings, Inverted, Pair, PairEdit
from ldm.baselines.proximal import find_threshold, shrink
from ldm.config.baselines import ProxMasaCtrlConfig
from ldm.diffusion.ddim import move


class ProxMasaCtrl(PairEdit[ProxMasaCtrlConfig]):
    """The source is drawn by its own prompt without guidance, the target with it; see `PairEdit`.

    Raises:
        UserError: the UNet has fewer transformer blocks than `masa_layer`.
    """

    def negatives(self) -> tuple[Embeddings, Embeddings]:
        """The negative embeddings of sources and targets."""
        own = self.source if self.settings.npi else self.null
        return own, self.towards_null(own)

    def make_control(self) -> MutualSelfAttention:
        """The attention control that the settings ask for."""
        settings, blocks = self.settings, len(attention_layers(self.model.unet)) // 2
        if settings.masa_layer > blocks:
            raise UserError(
                f"proxmasactrl.masa_layer: got {settings.masa_layer}, allowed: 0 to {blocks}, the number of "
                "this UNet's transformer blocks"
            )
        return MutualSelfAttention(
            settings.masa_step, settings.masa_layer, settings.inject_uncond, settings.inject_cond
        )

    def step(self, step: int, latents: Pair, path: Inverted) -> Pair:
        """The latents after a step."""
        settings, level = self.settings, self.level(step)
        if settings.query_intermediate:
            latents = torch.stack([path[level + 1], latents[1]])
        negative = torch.stack([self.null, self.null]) if step < settings.npi_step else self.negative
        null, text = self.predict(step, latents, negative)
        delta = text[1:] - null[1:]  # 1 b 4 h w
        if step >= settings.prox_step:
            # The target's differences alone give lambda here.
            delta = shrink(delta, find_threshold(delta, settings.quantile), settings)
        noise = torch.cat([text[:1], null[1:] + settings.guidance * delta])
        return move(latents, noise, self.grid.alpha(level), self.grid.alpha(level - 1))
