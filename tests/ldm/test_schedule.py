"""The noise schedule by its closed forms, and the clean latent that a step of the published sampler tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from egogen.errors import UserError
from ldm.diffusion.sampler import (
    LogLinearEulerAncestral,
    is_deterministic,
    make_scheduler,
    noise_levels,
    set_timesteps,
)
from ldm.diffusion.schedule import (
    BETA_END,
    BETA_START,
    SCHEDULE,
    TRAINING_SCHEDULE,
    p2_weight,
    training_schedule,
)

# Where each of diffusers' schedulers puts its timesteps, as Stable Diffusion's own configurations say.
LEADING = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 1}


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
        "sqrt_alphas_cumprod": product[1:] ** 0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - product[1:]) ** 0.5,
        "sqrt_recip_alphas_cumprod": product[1:] ** -0.5,
        "sqrt_recipm1_alphas_cumprod": (1 / product[1:] - 1) ** 0.5,
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(buffers[name][1:], values, rtol=2e-7, err_msg=name)
    # Of the first step nothing is left to chance: x_0 itself, and a logarithm that is cut (published).
    first = {name: value[0] for name, value in buffers.items()}
    assert (first["alphas_cumprod_prev"], first["posterior_variance"]) == (1, 0)
    assert (first["posterior_mean_coef1"], first["posterior_mean_coef2"]) == (1, 0)
    assert first["posterior_log_variance_clipped"] == pytest.approx(np.log(1e-20), rel=1e-6)


def test_a_timestep_weighs_by_its_signal_and_noise() -> None:
    """1 / (k + SNR)^gamma, where SNR is the variance of the signal by that of the noise."""
    schedule = training_schedule()
    share = schedule["alphas_cumprod"].double()
    for k, gamma in ((1.0, 0.5), (0.25, 1.0)):
        wanted = 1 / (k + share / (1 - share)) ** gamma
        torch.testing.assert_close(p2_weight(schedule, k, gamma).double(), wanted, rtol=1e-4, atol=0)
    assert p2_weight(schedule, 1.0, 0.0).equal(torch.ones(1000))


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


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("euler_ancestral", LogLinearEulerAncestral, {}),
        ("ddim", DDIMScheduler, LEADING),
        ("DDIMScheduler", DDIMScheduler, LEADING),
        (
            "ddim_trailing",
            DDIMScheduler,
            {
                "clip_sample": False,
                "set_alpha_to_one": True,
                "timestep_spacing": "trailing",
                "steps_offset": 0,
            },
        ),
        (
            "PNDMScheduler",
            PNDMScheduler,
            {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        ),
        ("lcm", LCMScheduler, LEADING),
        ("dpmpp_2m", DPMSolverMultistepScheduler, {"timestep_spacing": "linspace", "steps_offset": 0}),
        ("euler", EulerDiscreteScheduler, {"timestep_spacing": "linspace", "steps_offset": 0}),
        ("unipc", UniPCMultistepScheduler, {"timestep_spacing": "linspace", "steps_offset": 0}),
    ],
)
def test_schedulers_are_made_for_latents(name: str, kind: type, options: dict[str, object]) -> None:
    made = make_scheduler(name)
    assert type(made) is kind
    stated = {**TRAINING_SCHEDULE, **options}
    assert {key: made.config[key] for key in stated} == stated


@pytest.mark.parametrize("name", ["dpm", "UNet2DConditionModel", "schedulers"])
def test_other_names_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UserError) as told:
        make_scheduler(name)
    assert str(told.value) == (
        f"scheduler {name!r}: allowed are euler_ancestral, ddim, ddim_trailing, dpmpp_2m, euler, lcm, unipc "
        "and diffusers' scheduler classes"
    )


def test_a_scheduler_of_another_noise_is_refused() -> None:
    with pytest.raises(UserError) as told:
        make_scheduler("FlowMatchEulerDiscreteScheduler")
    assert str(told.value) == (
        "scheduler 'FlowMatchEulerDiscreteScheduler': it does not know Stable Diffusion's noise schedule"
    )


def test_whoever_asks_whether_steps_draw_keeps_their_scheduler() -> None:
    made = make_scheduler("euler")
    made.set_timesteps(7)
    is_deterministic(made)
    assert len(made.timesteps) == 7


def test_timesteps_are_the_scheduler_s_own_or_the_optimised_ones() -> None:
    """Align Your Steps for Stable Diffusion (Sabour et al. 2024)."""
    made, own = make_scheduler("dpmpp_2m"), make_scheduler("dpmpp_2m")
    set_timesteps(made, 10, "ays", torch.device("cpu"))
    assert made.timesteps.tolist() == [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    set_timesteps(made, 7, "own")
    own.set_timesteps(7)
    assert made.timesteps.equal(own.timesteps)
    for steps, timesteps in ((7, "own"), (10, "ays")):
        set_timesteps(made, steps, timesteps, torch.device("meta"))  # type: ignore[arg-type]
        assert made.timesteps.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "steps", "told"),
    [
        ("ddim", 10, "scheduler: got 'ddim', allowed: dpmpp_2m or euler with timesteps ays"),
        (
            "PNDMScheduler",
            10,
            "scheduler: got 'PNDMScheduler', allowed: dpmpp_2m or euler with timesteps ays",
        ),
        ("euler", 9, "steps: got 9, allowed: 10 with timesteps ays"),
    ],
)
def test_schedulers_that_cannot_be_given_timesteps_are_named(name: str, steps: int, told: str) -> None:
    with pytest.raises(UserError) as refused:
        set_timesteps(make_scheduler(name), steps, "ays")
    assert str(refused.value) == told


def test_the_published_sampler_makes_a_step_at_least() -> None:
    made = make_scheduler()
    made.set_timesteps(1)
    assert made.timesteps.tolist() == [999]
    made.set_timesteps(4)
    assert (made.timesteps.tolist(), made.timesteps.dtype) == ([999, 666, 333, 0], torch.float32)
    made.set_timesteps(100)
    assert made.timesteps.equal(torch.linspace(999, 0, 100, dtype=torch.float64).float())
    with pytest.raises(UserError, match=r"^sampling steps: got 0, expected at least 1$"):
        made.set_timesteps(0)


def test_noise_is_of_the_latent_s_precision() -> None:
    made = make_scheduler()
    made.set_timesteps(4)
    sample = torch.ones(1, 4, 3, 3, dtype=torch.float64)
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    given = made.step(sample, made.timesteps[0], sample, noise=noise, return_dict=False)[0]
    made.set_timesteps(4)
    generator = torch.Generator().manual_seed(7)
    drawn = made.step(sample, made.timesteps[0], sample, generator=generator, return_dict=False)[0]
    assert drawn.equal(given)


def test_its_steps_are_those_of_diffusers_at_the_same_noise_levels() -> None:
    """Noise is given, or drawn from the generator; the last step adds none."""
    ours, theirs = make_scheduler(), EulerAncestralDiscreteScheduler(**TRAINING_SCHEDULE)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
    theirs.sigmas = ours.sigmas
    sample, predicted = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for t in ours.timesteps:
        drawn = torch.randn(sample.shape, generator=torch.Generator().manual_seed(7))
        wanted = theirs.step(predicted, t, sample, generator=torch.Generator().manual_seed(7))
        index = ours.step_index
        given = ours.step(predicted, t, sample, noise=drawn)
        ours._step_index = index
        generator = torch.Generator().manual_seed(7)
        again = ours.step(predicted, t, sample, generator=generator)
        untouched = generator.get_state().equal(torch.Generator().manual_seed(7).get_state())
        assert untouched == (t == ours.timesteps[-1])
        for found in (given, again):
            torch.testing.assert_close(found.prev_sample, wanted.prev_sample, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                found.pred_original_sample, wanted.pred_original_sample, rtol=1e-5, atol=1e-5
            )
        sample = wanted.prev_sample
    torch.testing.assert_close(sample, given.pred_original_sample, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc", "ddim"])
def test_noise_levels_are_the_scheduler_s(name: str) -> None:
    scheduler = make_scheduler(name)
    scheduler.set_timesteps(7)
    levels = torch.tensor(noise_levels(scheduler))
    if name == "ddim":
        alpha = scheduler.alphas_cumprod[scheduler.timesteps]
        own = ((1 - alpha) / alpha).sqrt()
    else:
        own = scheduler.sigmas[:7]
    torch.testing.assert_close(levels, own, rtol=1e-4, atol=1e-5)
