"""A plain text-to-image Stable Diffusion, from which SDEdit and ProxEdit draw without any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.conditioner import embed
from ldm.networks.architecture import Parts
from ldm.networks.shapes import LATENT_SCALE
from ldm.networks.text import make_tokenizer


class StableDiffusion:
    """Its networks, by what they are asked for. Latents are scaled.

    Args:
        parts: loaded; the UNet has 4 input channels.
    """

    def __init__(self, parts: Parts) -> None:
        self.unet, self.vae, self.text_encoder, _ = parts
        for module in (self.unet, self.vae, self.text_encoder):
            module.eval()
        self.tokenizer = make_tokenizer()

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "b 77 ctx"]:
        """Conditioning tokens of prompts."""
        return embed(self.text_encoder, self.tokenizer, prompts)

    def posterior(
        self, image: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b 4 h w"], Float[Tensor, "b 4 h w"]]:
        """Mean and standard deviation of the latents of frames in [-1, 1]."""
        found = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        return LATENT_SCALE * found.mean, LATENT_SCALE * found.std

    def predict(
        self, latents: Float[Tensor, "b 4 h w"], timestep: int, context: Float[Tensor, "b 77 ctx"]
    ) -> Float[Tensor, "b 4 h w"]:
        """The noise in noisy latents."""
        dtype = self.unet.dtype
        time = torch.full((len(latents),), timestep, device=latents.device)
        return self.unet(latents.to(dtype), time, context.to(dtype)).sample.to(latents.dtype)

    def decode(self, latents: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 H W"]:
        """Frames, in about [-1, 1]."""
        return self.vae.decode((latents / LATENT_SCALE).to(self.vae.dtype)).sample
