"""The published sampler: Euler ancestral on log-linear sigmas; other diffusers schedulers by name."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature

import diffusers
import numpy as np
import torch
from diffusers import EulerAncestralDiscreteScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_utils import AysSchedules
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Real
from torch import Generator, Tensor

from egogen.errors import UserError, shorten
from ldm.diffusion.choices import DDIM_TRAILING, NAMES, PUBLISHED, Timesteps, check_timesteps
from ldm.diffusion.schedule import TRAINING_SCHEDULE


class LogLinearEulerAncestral(EulerAncestralDiscreteScheduler):
    """Euler ancestral sampling as k-diffusion does it (the ancestral split of Song et al. 2021, DDIM).

    Differs from diffusers in the sigma of a fractional timestep, interpolated in log sigma, and in that the
    noise of a step can be given.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Sets t = linspace(999, 0, n) and sigma(t), with a final sigma of 0.

        Raises:
            UserError: fewer than one step.
        """
        if num_inference_steps < 1:
            raise UserError(f"sampling steps: got {num_inference_steps}, expected at least 1")
        super().set_timesteps(num_inference_steps, device)
        last = self.config.num_train_timesteps - 1
        times = torch.linspace(last, 0, num_inference_steps, dtype=torch.float64)
        self.sigmas = torch.tensor([*log_linear_sigmas(self.alphas_cumprod, times), 0.0], dtype=torch.float32)
        self.timesteps = times.to(device=device, dtype=torch.float32)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
        noise: Tensor | None = None,
    ) -> EulerAncestralDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """One step from sigma_i to sigma_(i+1).

        Args:
            model_output: predicted noise, as `sample`.
            timestep: one of `timesteps`.
            sample: the noisy latent, any shape.
            generator: draws the step's noise if `noise` is None.
            return_dict: False returns (sample, predicted clean latent).
            noise: the step's noise, as `sample`.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        now, following = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        up = (following**2 * (now**2 - following**2) / now**2).sqrt()
        down = (following**2 - up**2).sqrt()
        clean = sample - now * model_output
        moved = sample + model_output * (down - now)
        if following > 0:
            if noise is None:
                noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
            moved = moved + noise * up
        self._step_index += 1
        if not return_dict:
            return moved, clean
        return EulerAncestralDiscreteSchedulerOutput(prev_sample=moved, pred_original_sample=clean)


def log_linear_sigmas(alphas_cumprod: Float[Tensor, " steps"], times: Real[Tensor, " n"]) -> list[float]:
    """sqrt((1 - alpha) / alpha) at timesteps, between whole ones interpolated in its logarithm."""
    alpha = alphas_cumprod.cpu().double()
    sigma = ((1 - alpha) / alpha).sqrt()
    log_sigma = np.interp(times.cpu().double().numpy(), np.arange(len(sigma)), sigma.log().numpy())
    found: list[float] = np.exp(log_sigma).tolist()
    return found


def set_timesteps(
    scheduler: SchedulerMixin, steps: int, timesteps: Timesteps, device: torch.device | None = None
) -> None:
    """Sets a scheduler to the timesteps of a drawing.

    Raises:
        UserError: it cannot be given others than its own, or there are not so many.
    """
    kind = type(scheduler).__name__
    name = next((short for short, full in NAMES.items() if full == kind), kind)
    check_timesteps("", timesteps, name, steps)
    if timesteps == "own":
        scheduler.set_timesteps(steps, device=device)
        return
    scheduler.set_timesteps(timesteps=AysSchedules["StableDiffusionTimesteps"], device=device)


def noise_levels(scheduler: SchedulerMixin) -> list[float]:
    """The noise level of each timestep that a scheduler was set to."""
    return log_linear_sigmas(scheduler.alphas_cumprod, scheduler.timesteps)


def is_deterministic(scheduler: SchedulerMixin, steps: int = 4) -> bool:
    """Whether a scheduler's steps draw no noise: a few of a copy's, by two seeds, end at one point."""
    ends = []
    for seed in range(2):
        tried, latents = deepcopy(scheduler), torch.ones(1, 4, 2, 2)
        tried.set_timesteps(steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for t in tried.timesteps:
                predicted = 0.5 * tried.scale_model_input(latents, t)
                latents = tried.step(predicted, t, latents, return_dict=False)[0]
        ends.append(latents)
    return torch.equal(*ends)


def make_scheduler(name: str = PUBLISHED) -> SchedulerMixin:
    """A scheduler by its short name, or by its diffusers class name.

    Raises:
        UserError: there is none of that name.
    """
    if name == PUBLISHED:
        return LogLinearEulerAncestral(**TRAINING_SCHEDULE)
    found = getattr(diffusers, NAMES.get(name, name), None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        allowed = ", ".join([PUBLISHED, *NAMES])
        raise UserError(f"scheduler {shorten(name)}: allowed are {allowed} and diffusers' scheduler classes")
    taken = list(signature(getattr(found, "step", found)).parameters.values())
    asked = [  # behind itself, the prediction, t and latents
        each.name
        for each in taken[4:]
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if asked:
        raise UserError(
            f"scheduler {shorten(name)}: its steps ask for {', '.join(asked)} too; choose another"
        )
    known = {name: value.default for name, value in signature(found).parameters.items()}
    # As Stable Diffusion's own configurations: latents are not pictures, and must not be clipped.
    options: dict[str, object] = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
    if known.get("timestep_spacing") == "leading":
        options["steps_offset"] = 1
    if name == DDIM_TRAILING:
        options = {"clip_sample": False, "timestep_spacing": "trailing"}
    try:
        return found(**TRAINING_SCHEDULE, **{name: value for name, value in options.items() if name in known})
    except TypeError:
        raise UserError(
            f"scheduler {shorten(name)}: it does not know Stable Diffusion's noise schedule"
        ) from None
