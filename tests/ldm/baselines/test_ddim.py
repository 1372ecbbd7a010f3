"""DDIM both ways and SDEdit against closed forms, and on a network by what they must give back."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from egogen.errors import UserError
from ldm.baselines.sdedit import sdedit
from ldm.config.baselines import SDEditConfig
from ldm.config.merge import validated
from ldm.config.sections import GenerateConfig
from ldm.diffusion.ddim import Grid, denoise, invert, move
from ldm.diffusion.sampler import make_scheduler
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from tests.ldm.baselines.small import Gaussian, latents, small


def psnr(found: Tensor, expected: Tensor) -> float:
    """Against the range of the expected values, in dB."""
    span = float(expected.max() - expected.min())
    return float(10 * torch.log10(span**2 / (found - expected).square().mean()))


def test_the_path_of_normal_data_is_the_known_one() -> None:
    model, grid, clean = Gaussian(0.5), Grid(500), latents()
    context = model.embed(["0.3"])
    path = invert(lambda x, t: model.predict(x, t, context), clean, grid)
    expected = model.carried(clean, 0.3, grid.alpha(-1), grid.alpha(grid.steps - 1))
    torch.testing.assert_close(path[-1], expected, rtol=0, atol=0.02)
    back = denoise(lambda x, t: model.predict(x, t, context), path[-1], grid, grid.steps)
    torch.testing.assert_close(back, clean, rtol=0, atol=0.02)


@pytest.mark.parametrize(("steps", "bound"), [(10, 25.0), (50, 35.0)])
def test_what_is_inverted_comes_back(steps: int, bound: float) -> None:
    model, grid, clean = small(), Grid(steps), latents()
    context = model.embed(["a hand opens the box"])
    with torch.no_grad():
        path = invert(lambda x, t: model.predict(x, t, context), clean, grid)
        back = denoise(lambda x, t: model.predict(x, t, context), path[-1], grid, steps)
    assert path.shape == (steps + 1, *clean.shape)
    assert psnr(back, clean) > bound


@pytest.mark.parametrize("steps", [7, 10, 50])
def test_the_grid_and_its_step_are_those_of_diffusers(steps: int) -> None:
    scheduler, grid = make_scheduler("ddim"), Grid(steps)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == list(grid.timesteps[:steps])[::-1]
    before, noise = latents(seed=1), latents(seed=2)
    for level in (0, steps // 2, steps - 1):
        expected = scheduler.step(noise, grid.timesteps[level], before, return_dict=False)[0]
        found = move(before, noise, grid.alpha(level), grid.alpha(level - 1))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_inversion_takes_the_steps_of_diffusers_inverse_scheduler() -> None:
    options = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    inverse, grid = DDIMInverseScheduler(**TRAINING_SCHEDULE, **options), Grid(10)
    inverse.set_timesteps(10)
    assert inverse.timesteps.tolist() == list(grid.timesteps)
    expected, noise = latents(seed=1), latents(seed=2)
    for level, found in enumerate(invert(lambda *_: noise, expected, grid)[1:]):
        expected = inverse.step(noise, grid.timesteps[level], expected).prev_sample
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_sdedit_of_normal_data_follows_the_closed_form() -> None:
    model, source, noise = Gaussian(0.5), latents(2, 1), latents(2, 2)
    settings = SDEditConfig(strength=0.6, steps=500, guidance=1.0, noise_level="matched")
    grid = Grid(500)
    start = grid.alpha(settings.noised_level)
    noised = start**0.5 * source + (1 - start) ** 0.5 * noise
    found = sdedit(model, source, ["0.3", "0.3"], noise, settings)
    torch.testing.assert_close(found, model.carried(noised, 0.3, start, grid.alpha(-1)), rtol=0, atol=0.02)


def test_sdedit_keeps_the_frame_at_0_and_forgets_it_at_1() -> None:
    model, one, other, noise = Gaussian(0.5), latents(1, 1), latents(1, 2), latents(1, 3)

    def draw(source: Tensor, strength: float, noise_level: str = "matched") -> Tensor:
        settings = SDEditConfig(strength=strength, guidance=1.0, noise_level=noise_level)
        return sdedit(model, source, ["0.3"], noise, settings)

    assert torch.equal(draw(one, 0.0), one)
    assert psnr(draw(one, 0.0, "compvis"), one) > 35  # noised at timestep 1, as published
    kept = [
        float((draw(one, s) - draw(other, s)).norm() / (one - other).norm()) for s in (0.0, 0.3, 0.6, 1.0)
    ]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 0.06
    assert abs(float(draw(one, 1.0).mean()) - 0.3) < 0.1


def test_sdedit_guides_away_from_the_empty_prompt() -> None:
    model, source, noise = Gaussian(0.5), latents(1, 1), latents(1, 2)
    means = [
        float(sdedit(model, source, ["0.2"], noise, SDEditConfig(strength=0.9, guidance=scale)).mean())
        for scale in (0.0, 1.0, 3.0)
    ]
    assert means[1] - means[0] == pytest.approx((means[2] - means[0]) / 3)  # linear, since the predictor is


@pytest.mark.parametrize(
    ("strength", "steps", "repainted", "compvis", "matched"),
    [(0.75, 10, 7, 701, 601), (0.3, 10, 3, 301, 201), (0.29, 100, 28, 281, 271), (1.0, 7, 7, 995, 853)],
)
def test_sdedit_levels(strength: float, steps: int, repainted: int, compvis: int, matched: int) -> None:
    for kind, expected in (("compvis", compvis), ("matched", matched)):
        settings = SDEditConfig(strength=strength, steps=steps, noise_level=kind)
        assert settings.repainted == repainted
        assert Grid(steps).timesteps[settings.noised_level] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strength": 1.0},
            r"sdedit.strength: got 1.0, allowed: less than 1 with 50 steps; or set sdedit.noise",
        ),
        ({"strength": 1.2}, r"sdedit.strength: got 1.2, allowed: 0 to 1"),
        ({"strength": -0.1}, r"sdedit.strength"),
        ({"steps": 0}, r"sdedit.steps: got 0, allowed: 1 to 999"),
        ({"steps": 1000}, r"sdedit.steps"),
        ({"guidance": float("nan")}, r"sdedit.guidance: got nan, allowed: a finite number"),
        ({"noise_level": "ddpm"}, r"sdedit.noise_level: got 'ddpm', allowed: compvis, matched"),
    ],
)
def test_sdedit_refuses_what_its_grid_has_not(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(GenerateConfig, {"sdedit": settings})


@pytest.mark.parametrize("kind", ["compvis", "matched"])
def test_sdedit_in_a_batch_is_sdedit_alone(kind: str) -> None:
    model, source, noise = small(), latents(3, 1), latents(3, 2)
    prompts = ["open the box", "", "cut the apple with the left hand"]
    settings = SDEditConfig(steps=4, noise_level=kind)
    together = sdedit(model, source, prompts, noise, settings)
    for row in range(3):
        alone = sdedit(model, source[row : row + 1], prompts[row : row + 1], noise[row : row + 1], settings)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)
