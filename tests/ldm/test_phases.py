"""Phases and jumps along the noise schedule, against diffusers' DDIM."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler

from ldm.diffusion.phases import CLEAN, Phases, jump, schedule_table
from ldm.diffusion.sampler import make_scheduler
from ldm.diffusion.schedule import TRAINING_SCHEDULE

TRAILING = partial(DDIMScheduler, **TRAINING_SCHEDULE, timestep_spacing="trailing", clip_sample=False)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 40])
def test_times_are_those_of_trailing_ddim(steps: int) -> None:
    """Witness: diffusers."""
    scheduler = TRAILING()
    scheduler.set_timesteps(steps)
    wanted = scheduler.timesteps.tolist()
    every = torch.arange(1000)
    assert sorted(set(Phases(steps, 1).on_grid(every).tolist()), reverse=True) == wanted
    assert [*wanted[1:], CLEAN] == Phases(steps, 1).following(torch.tensor(wanted)).tolist()
    phases = Phases(40, steps)
    assert sorted(set(phases.begin(every).tolist()), reverse=True) == wanted
    assert phases.edge(torch.tensor(wanted)).tolist() == [*wanted[1:], CLEAN]
    ours = make_scheduler("ddim_trailing")
    ours.set_timesteps(steps)
    assert ours.timesteps.tolist() == wanted
    assert float(ours.final_alpha_cumprod) == 1


def test_times_of_the_grid_are_equally_likely() -> None:
    counts = torch.bincount(Phases(40, 4).on_grid(torch.arange(1000)))
    assert counts[counts > 0].tolist() == [25] * 40


def test_a_jump_to_where_one_is_changes_nothing_and_jumps_are_ddims() -> None:
    table, generator = schedule_table(), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 5, 4, 3, 3, generator=generator)
    t = torch.tensor([0, 24, 499, 749, 999])
    # (x - s e) is divided by a down to 1 / 14.65 and multiplied again.
    torch.testing.assert_close(jump(x, noise, t, t, table), x, rtol=0, atol=2e-6)
    scheduler = TRAILING()
    scheduler.set_timesteps(40)
    for row, now in ((3, 749), (4, 999), (1, 24)):
        wanted = scheduler.step(noise[row], now, x[row]).prev_sample
        one = slice(row, row + 1)
        found = jump(x[one], noise[one], t[one], torch.tensor([now - 25]), table)[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
