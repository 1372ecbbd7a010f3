"""What settings may choose of training, drawing and showing a frame, by name; no torch."""

from __future__ import annotations

from typing import Literal

TRAINING_STEPS = 1000
PUBLISHED = "euler_ancestral"
# Schedulers by short names; the others go by diffusers' class names.
NAMES = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# Share of samples that lose the text alone, both, the image alone (published; InstructPix2Pix, 3.2.1).
DROP_EACH = 0.05
OutputRange = Literal["stretch", "clamp"]


def check_scheduler(name: str) -> None:
    """Raises a `UserError` for a scheduler that is not there; asks diffusers for names that are not ours."""
    if name not in (PUBLISHED, *NAMES):
        from ldm.diffusion.sampler import make_scheduler

        make_scheduler(name)


def grid_timesteps(steps: int) -> range:
    """Timesteps 1, 1 + c, 1 + 2c ... with c = 1000 // steps (`ldm.diffusion.ddim.Grid`)."""
    return range(1, TRAINING_STEPS, TRAINING_STEPS // steps)
