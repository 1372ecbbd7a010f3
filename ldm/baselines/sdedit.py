"""SDEdit (Meng et al. 2022) with Stable Diffusion: noise a frame up to a level, draw it anew from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.config.baselines import SDEditConfig
from ldm.diffusion.ddim import Grid, add_noise, denoise


@torch.no_grad()
def sdedit(
    model: StableDiffusion,
    source: Float[Tensor, "b 4 h w"],
    prompts: Sequence[str],
    noise: Float[Tensor, "b 4 h w"],
    settings: SDEditConfig,
) -> Float[Tensor, "b 4 h w"]:
    """Draws latents by CompVis' img2img: deterministic DDIM steps with classifier-free guidance.

    `source` are latents of source frames, which are noised with standard normal `noise`; `prompts` say what
    the drawn frames show.
    """
    grid, scale = Grid(settings.steps), settings.guidance
    context = model.embed(prompts)  # b 77 ctx
    both = torch.cat([model.embed([""]).expand_as(context), context])

    def predict(latents: Tensor, timestep: int) -> Tensor:
        if scale == 1:
            return model.predict(latents, timestep, context)
        null, full = model.predict(torch.cat([latents, latents]), timestep, both).chunk(2)
        return null + scale * (full - null)  # Ho and Salimans 2022, equation 6

    level = settings.noised_level
    latents = source if level < 0 else add_noise(source, noise, grid.alpha(level))
    return denoise(predict, latents, grid, settings.repainted)
