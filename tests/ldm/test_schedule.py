"""The noise schedule by its closed forms, and the clean latent that a step of the published sampler tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from ldm.diffusion.sampler import is_deterministic, make_scheduler
from ldm.diffusion.schedule import BETA_END, BETA_START, SCHEDULE, training_schedule


def test_the_buffers_are_those_of_the_posterior() -> None:
    """q(x_(t-1) | x_t, x_0) is a product of two Gaussians (Ho et al. 2020, equation 6): precisions add."""
    buffers = {name: value.double().numpy() for name, value in training_schedule().items()}
    assert [*buffers] == SCHEDULE
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, 1000) ** 2
    product, before = np.cumprod(1 - betas), np.cumprod(1 - betas)[:-1]
    precision = (1 - betas[1:]) / betas[1:] + 1 / (1 - before)
    wanted = {
        "betas": betas[1:],
        "alphas_cumprod": product[1:],
        "alphas_cumprod_prev": before,
        "posterior_variance": 1 / precision,
        "posterior_log_variance_clipped": -np.log(precision),
        "posterior_mean_coef1": np.sqrt(before) / (1 - before) / precision,
        "posterior_mean_coef2": np.sqrt(1 - betas[1:]) / betas[1:] / precision,
        "log_one_minus_alphas_cumprod": np.log(1 - product)[1:],
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / product - 1)[1:],
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(buffers[name][1:], values, rtol=2e-7, err_msg=name)
    # Of the first step nothing is left to chance: x_0 itself, and a logarithm that is cut (published).
    first = {name: value[0] for name, value in buffers.items()}
    assert (first["alphas_cumprod_prev"], first["posterior_variance"]) == (1, 0)
    assert (first["posterior_mean_coef1"], first["posterior_mean_coef2"]) == (1, 0)
    assert first["posterior_log_variance_clipped"] == pytest.approx(np.log(1e-20), rel=1e-6)


def test_between_timesteps_sigma_is_interpolated_in_its_logarithm() -> None:
    """Of three steps the middle one is at 499.5: the geometric mean of its neighbours."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(3)
    product = training_schedule()["alphas_cumprod"].double()
    sigma = ((1 - product) / product).sqrt()
    wanted = torch.stack([sigma[999], (sigma[499] * sigma[500]).sqrt(), sigma[0], torch.zeros(()).double()])
    torch.testing.assert_close(scheduler.sigmas.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("step", [0, 3, 4])
def test_a_step_tells_the_clean_latent(step: int) -> None:
    """Of a latent that is x_0 + sigma epsilon, with the true epsilon predicted, it is x_0."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(5)
    clean, noise = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    sigma = scheduler.sigmas[step]
    sample = clean + sigma * noise
    _, found = scheduler.step(noise, scheduler.timesteps[step], sample, noise=noise, return_dict=False)
    torch.testing.assert_close(found, clean, rtol=0, atol=4e-6 * max(1.0, float(sigma)))


@pytest.mark.parametrize("name", ["ddim", "ddim_trailing", "dpmpp_2m", "euler", "unipc", "PNDMScheduler"])
def test_steps_of_ordinary_differential_equations_are_left_to_no_chance(name: str) -> None:
    assert is_deterministic(make_scheduler(name))


@pytest.mark.parametrize(
    "name", ["lcm", "EulerAncestralDiscreteScheduler", "DDPMScheduler", "euler_ancestral"]
)
def test_steps_that_draw_are_found_out_and_leave_chance_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    assert not is_deterministic(make_scheduler(name))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_class_may_do_both() -> None:
    """DPM-Solver++ of the stochastic equation, by its configuration (Lu et al. 2022)."""
    made = make_scheduler("dpmpp_2m")
    assert not is_deterministic(
        DPMSolverMultistepScheduler.from_config(made.config, algorithm_type="sde-dpmsolver++")
    )
