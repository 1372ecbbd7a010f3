"""A small plain Stable Diffusion for properties that hold for any weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.diffusion.ddim import alphas
from ldm.networks.architecture import build
from tests.ldm.toy_run import ATTENTIVE


def small() -> StableDiffusion:
    """In 64 bits, with noise predictions of about a tenth of what a trained one has."""
    torch.manual_seed(4)
    made = StableDiffusion(
        build(replace(ATTENTIVE, unet=replace(ATTENTIVE.unet, in_channels=4)), conditioner=False)
    )
    for module in (made.unet, made.vae, made.text_encoder):
        module.double()
    with torch.no_grad():
        made.unet.conv_out.weight *= 0.3
    return made


def latents(count: int = 1, seed: int = 5) -> Tensor:
    """Clean latents."""
    return torch.randn(count, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Gaussian(StableDiffusion):
    """The exact noise predictor of normal data whose mean the prompt names; DDIM's paths are known for it."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return (
            torch.tensor([float(prompt or 0) for prompt in prompts]).double()[:, None, None].expand(-1, 77, 1)
        )

    def predict(self, latents: Tensor, timestep: int, context: Tensor) -> Tensor:
        mean = context[:, :1, :, None]  # b 1 1 1
        alpha = alphas()[timestep]
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) / self.variance(alpha)

    def variance(self, alpha: float) -> float:
        """Of noisy data."""
        return alpha * self.deviation**2 + 1 - alpha

    def carried(self, latents: Tensor, mean: float, now: float, following: float) -> Tensor:
        """Where the probability flow takes latents from one noise level to another, exactly."""
        scale = (self.variance(following) / self.variance(now)) ** 0.5
        return following**0.5 * mean + scale * (latents - now**0.5 * mean)
