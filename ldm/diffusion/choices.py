"""What settings may choose of training, drawing and showing a frame, by name; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from egogen.errors import check

TRAINING_STEPS = 1000
MOST_SCALE = 1e9  # of guidance; no frame is drawn far below
PUBLISHED = "euler_ancestral"
DDIM_TRAILING = "ddim_trailing"  # from the last timestep down, evenly; what models of few phases are drawn by
PRESETS = ("fast", "balanced", "published")  # of drawing; files of configs/fast/
# Schedulers by short names; the others go by diffusers' class names.
NAMES = {
    "ddim": "DDIMScheduler",
    DDIM_TRAILING: "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# Share of samples that lose the text alone, both, the image alone (published; InstructPix2Pix, 3.2.1).
DROP_EACH = 0.05
# Where a drawing's steps are: the scheduler's own timesteps, or ten that were optimised for Stable Diffusion
# ("Align Your Steps", Sabour et al. 2024).
Timesteps = Literal["own", "ays"]
AYS_STEPS = 10
LCM_STEPS = 50  # of the path that latent consistency models were distilled from; they draw in 1 to 8
TAKE_TIMESTEPS = ("dpmpp_2m", "euler")  # the schedulers that can be given them
OutputRange = Literal["stretch", "clamp"]
Precision = Literal["auto", "bf16", "32"]  # numbers that a drawing is computed with; `ldm.networks.precision`


def check_scheduler(name: str) -> None:
    """Raises a `UserError` for a scheduler that is not there; asks diffusers for names that are not ours."""
    if name not in (PUBLISHED, *NAMES):
        from ldm.diffusion.sampler import make_scheduler

        make_scheduler(name)


def check_steps(name: str, steps: int) -> None:
    """Raises a `UserError` unless so many sampling steps can be made: there are as many timesteps."""
    check(name, steps, f"at least 1 and at most {TRAINING_STEPS}", 1 <= steps <= TRAINING_STEPS)


def check_scale(name: str, scale: float) -> None:
    """Raises a `UserError` for a guidance scale that gives no frame."""
    check(name, scale, f"a number from 0 to {MOST_SCALE:g}", 0 <= scale <= MOST_SCALE)


def check_interval(name: str, interval: Sequence[float] | None) -> None:
    """Raises a `UserError` unless two numbers are the ends of an interval of noise levels; none are all."""
    if interval:
        good = len(interval) == 2 and 0 <= interval[0] < interval[1]  # infinity is a good end, NaN is none
        check(name, list(interval), "two noise levels, low and high, 0 <= low < high", good)


def fits_ays(scheduler: str, steps: int) -> bool:
    """Whether a scheduler that makes so many steps can be given the optimised timesteps."""
    return scheduler in TAKE_TIMESTEPS and steps == AYS_STEPS


def check_timesteps(prefix: str, timesteps: Timesteps, scheduler: str, steps: int) -> None:
    """Raises a `UserError` unless a scheduler makes so many steps at such timesteps.

    Args:
        prefix: of the settings' names in messages, such as `sampling.`.
        timesteps: which.
        scheduler: its short name.
        steps: how many.
    """
    if scheduler in ("lcm", NAMES["lcm"]):
        check(f"{prefix}steps", steps, f"1 to {LCM_STEPS} with scheduler lcm", steps <= LCM_STEPS)
    if timesteps == "ays":
        allowed = f"{' or '.join(TAKE_TIMESTEPS)} with {prefix}timesteps ays"
        check(f"{prefix}scheduler", scheduler, allowed, scheduler in TAKE_TIMESTEPS)
        check(f"{prefix}steps", steps, f"{AYS_STEPS} with {prefix}timesteps ays", steps == AYS_STEPS)


def grid_timesteps(steps: int) -> range:
    """Timesteps 1, 1 + c, 1 + 2c ... with c = 1000 // steps (`ldm.diffusion.ddim.Grid`)."""
    return range(1, TRAINING_STEPS, TRAINING_STEPS // steps)
