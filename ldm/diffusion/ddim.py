"""DDIM (Song et al. 2021) on the grid of Stable Diffusion's samplers, forwards and backwards in noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.choices import grid_timesteps
from ldm.diffusion.sampler import make_scheduler

Predict = Callable[[Tensor, int], Tensor]  # noisy latent and timestep to predicted noise


@cache
def alphas() -> list[float]:
    """Cumulative products of 1 - beta, by training timestep."""
    return make_scheduler("ddim").alphas_cumprod.tolist()


class Grid:
    """Timesteps 1, 1 + c, 1 + 2c ... with c = 1000 // steps; level k is the k-th of them.

    Sampling uses levels steps - 1 ... 0. Where the steps do not divide 1000 there are noisier levels above
    them. Level -1 is the clean end, whose alpha is that of timestep 0, not 1 (published).

    Args:
        steps: 1 to 999.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.timesteps = grid_timesteps(steps)

    def alpha(self, level: int) -> float:
        """Share of the signal's variance at a level."""
        return alphas()[0 if level < 0 else self.timesteps[level]]


def add_noise(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], alpha: float
) -> Float[Tensor, "*shape"]:
    """sqrt(alpha) x_0 + sqrt(1 - alpha) eps (Song et al. 2021, equation 4)."""
    return sqrt(alpha) * clean + sqrt(1 - alpha) * noise


def predict_clean(
    noisy: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], alpha: float
) -> Float[Tensor, "*shape"]:
    """The x_0 that `add_noise` would make `noisy` (Song et al. 2021, equation 9)."""
    return (noisy - sqrt(1 - alpha) * noise) / sqrt(alpha)


def move(
    latents: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], now: float, following: float
) -> Float[Tensor, "*shape"]:
    """One step between two noise levels, either way (Song et al. 2021, equation 12 with sigma = 0)."""
    return add_noise(predict_clean(latents, noise, now), noise, following)


def denoise(
    predict: Predict, latents: Float[Tensor, "*shape"], grid: Grid, levels: int
) -> Float[Tensor, "*shape"]:
    """Runs the `levels` least noisy steps of a grid, down to the clean end."""
    for level in reversed(range(levels)):
        noise = predict(latents, grid.timesteps[level])
        latents = move(latents, noise, grid.alpha(level), grid.alpha(level - 1))
    return latents


def invert(predict: Predict, clean: Float[Tensor, "*shape"], grid: Grid) -> Float[Tensor, "n *shape"]:
    """The path from a clean latent to the noise that DDIM would draw it from.

    The noise of a step is predicted from the cleaner latent, but for the noisier timestep (Mokady et al.
    2023, section 3.1).

    Returns:
        Entry k is the latent at level k - 1: first the clean one, last the noisiest.
    """
    path = [clean]
    for level in range(grid.steps):
        noise = predict(path[-1], grid.timesteps[level])
        path.append(move(path[-1], noise, grid.alpha(level - 1), grid.alpha(level)))
    return torch.stack(path)
