"""Jumps along the noise schedule, and the phases a distilled model makes them in (Wang et al. 2024, PCM)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.diffusion.choices import TRAINING_STEPS
from ldm.diffusion.schedule import training_schedule

CLEAN = -1  # stands for the timestep of the clean end, where a = 1 and s = 0


class Phases(NamedTuple):
    """A grid of trailing DDIM times, and M phases whose edges are among them.

    `grid`: N, `parts`: M; both divide 1000, and M divides N.
    """

    grid: int
    parts: int

    def on_grid(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """The grid's time at or above a timestep; uniform timesteps give uniform times."""
        width = TRAINING_STEPS // self.grid
        return (t // width + 1) * width - 1

    def following(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """t', the next time of the grid below; `CLEAN` below the last."""
        return t - TRAINING_STEPS // self.grid

    def edge(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """E(t), the next edge of a phase below t, and `CLEAN` in the last phase."""
        width = TRAINING_STEPS // self.parts
        return t // width * width - 1

    def begin(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """The noisiest time of t's phase."""
        return self.edge(t) + TRAINING_STEPS // self.parts


def schedule_table() -> Float[Tensor, "2 steps"]:
    """a_t = sqrt(alphas_cumprod) and s_t = sqrt(1 - alphas_cumprod) for t = -1 ... 999, in 32 bits."""
    schedule = training_schedule()
    a = torch.cat([torch.ones(1), schedule["sqrt_alphas_cumprod"]])
    s = torch.cat([torch.zeros(1), schedule["sqrt_one_minus_alphas_cumprod"]])
    return torch.stack([a, s])


def jump(
    x: Float[Tensor, "b 4 h w"],
    noise: Float[Tensor, "b 4 h w"],
    now: Int64[Tensor, " b"],
    to: Int64[Tensor, " b"],
    table: Float[Tensor, "2 steps"],
) -> Float[Tensor, "b 4 h w"]:
    """D(x, t, t', e) = a_t' (x - s_t e) / a_t + s_t' e (Song et al. 2021, DDIM, equation 12 with sigma = 0).

    In 32 bits, since 1 / a_999 is 14.65.

    Args:
        x: latent at time t.
        noise: predicted there.
        now: t.
        to: t'.
        table: `schedule_table`, on the same device.
    """
    (a, a_to), (s, s_to) = ((row[now + 1, None, None, None], row[to + 1, None, None, None]) for row in table)
    x, noise = x.float(), noise.float()
    return a_to * (x - s * noise) / a + s_to * noise
