"""What settings may choose: the ends of each range, and what is said beyond them."""

from __future__ import annotations

import math

import pytest

from egogen.errors import UserError
from ldm.diffusion.choices import (
    Timesteps,
    check_interval,
    check_scale,
    check_scheduler,
    check_steps,
    check_timesteps,
    fits_ays,
    grid_timesteps,
)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m", "ddim_trailing", "lcm", "PNDMScheduler"])
def test_schedulers_go_by_our_names_and_by_those_of_diffusers(name: str) -> None:
    check_scheduler(name)


def test_a_scheduler_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"^scheduler 'dpm': allowed are euler_ancestral, ddim, "):
        check_scheduler("dpm")


def test_there_are_as_many_steps_as_timesteps() -> None:
    for steps in (1, 1000):
        check_steps("steps", steps)
    for steps in (0, 1001):
        with pytest.raises(UserError) as told:
            check_steps("steps", steps)
        assert str(told.value) == f"steps: got {steps}, allowed: at least 1 and at most 1000"


def test_a_scale_is_a_number_that_is_not_negative() -> None:
    for scale in (0.0, 0.5, 7.5):
        check_scale("scale", scale)
    for scale in (-0.5, math.inf, math.nan):
        with pytest.raises(UserError) as told:
            check_scale("scale", scale)
        assert str(told.value) == f"scale: got {scale}, allowed: a number from 0 to 1e+09"


@pytest.mark.parametrize("interval", [None, [], [0.0, 1.0], [0.28, 5.42], [0.5, math.inf]])
def test_an_interval_has_two_ends_or_none(interval: list[float] | None) -> None:
    check_interval("interval", interval)


@pytest.mark.parametrize(
    "interval",
    [[1.0], [0.0, 1.0, 2.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 2.0], [math.nan, 1.0], [1.0, math.nan]],
)
def test_other_intervals_are_refused(interval: list[float]) -> None:
    with pytest.raises(UserError) as told:
        check_interval("interval", interval)
    expected = f"interval: got {interval}, allowed: two noise levels, low and high, 0 <= low < high"
    assert str(told.value) == expected


@pytest.mark.parametrize(
    ("timesteps", "scheduler", "steps", "told"),
    [
        ("own", "ddim", 1000, ""),
        ("own", "lcm", 50, ""),
        ("own", "lcm", 51, "steps: got 51, allowed: 1 to 50 with scheduler lcm"),
        ("own", "LCMScheduler", 51, "steps: got 51, allowed: 1 to 50 with scheduler lcm"),
        ("ays", "dpmpp_2m", 10, ""),
        ("ays", "euler", 10, ""),
        ("ays", "ddim", 10, "scheduler: got 'ddim', allowed: dpmpp_2m or euler with sampling.timesteps ays"),
        ("ays", "euler", 11, "steps: got 11, allowed: 10 with sampling.timesteps ays"),
    ],
)
def test_which_timesteps_a_scheduler_takes(
    timesteps: Timesteps, scheduler: str, steps: int, told: str
) -> None:
    if not told:
        check_timesteps("sampling.", timesteps, scheduler, steps)
        return
    with pytest.raises(UserError) as refused:
        check_timesteps("sampling.", timesteps, scheduler, steps)
    assert str(refused.value) == f"sampling.{told}"


def test_a_scheduler_whose_steps_ask_for_more_is_refused() -> None:
    with pytest.raises(UserError, match="its steps ask for original_image, mask too"):
        check_scheduler("RePaintScheduler")


def test_the_optimised_timesteps_fit_two_schedulers_and_their_number() -> None:
    assert fits_ays("euler", 10)
    assert fits_ays("dpmpp_2m", 10)
    assert not fits_ays("euler", 9)
    assert not fits_ays("ddim", 10)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(10, [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]), (3, [1, 334, 667]), (1, [1])],
)
def test_the_grid_begins_at_1(steps: int, expected: list[int]) -> None:
    assert list(grid_timesteps(steps)) == expected


def test_a_grid_that_does_not_divide_reaches_beyond_its_steps() -> None:
    """Of 7 steps of 142, level 7 is at timestep 995 (`ldm.diffusion.ddim.Grid`)."""
    assert list(grid_timesteps(7)) == [1, 143, 285, 427, 569, 711, 853, 995]
