"""What chance decides for one item: keyed by its id, so that no batch or process can change it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from egogen.seeds import item_seed
from ldm.diffusion.choices import TRAINING_STEPS
from ldm.networks.shapes import LATENT_CHANNELS


def item_generator(seed: int, clip: str, action: str) -> torch.Generator:
    """The generator of all noise that one frame is drawn from: in files, grids and single photos alike."""
    return torch.Generator().manual_seed(item_seed(seed, clip, action))


class Draws(NamedTuple):
    """What chance decides for one training sample.

    `t`: timestep, 0 .. 999. `noise`: epsilon. `posterior_noise`: makes the target latent a draw from the
    VAE's posterior. `drop`: the r of guidance dropout, 0 .. 1 (see `ldm.guidance.draw_drop`). `flip`: 0 .. 1;
    below the configured probability the pair is mirrored. `scales`: 0 .. 1 for w_T and w_I, of which
    distillation makes guidance scales.
    """

    t: Int64[Tensor, ""]
    noise: Float[Tensor, "4 h w"]
    posterior_noise: Float[Tensor, "4 h w"]
    drop: Float[Tensor, ""]
    flip: float
    scales: Float[Tensor, "2"]


def draw(seed: int, item: str, epoch: str, height: int, width: int) -> Draws:
    """Draws for one item in one pass over the data, or in `val`; height and width are the latent's."""
    generator = torch.Generator().manual_seed(item_seed(seed, epoch, item))
    t = torch.randint(0, TRAINING_STEPS, (), generator=generator)
    noise, posterior_noise = torch.randn(2, LATENT_CHANNELS, height, width, generator=generator)
    drop, flip = torch.rand(2, generator=generator)
    scales = torch.rand(2, generator=generator)
    return Draws(t, noise, posterior_noise, drop, flip.item(), scales)
