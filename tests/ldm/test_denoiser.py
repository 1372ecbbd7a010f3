"""The guided prediction: the rows that are run, that leaving out others changes nothing, where it acts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from egogen.errors import UserError
from ldm.denoiser import denoiser, passes
from ldm.diffusion.sampler import make_scheduler, noise_levels
from ldm.guidance import ALWAYS, Guidance, Interval, combine, guide, rows_of
from ldm.networks.architecture import build
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import ATTENTIVE

# Rounding of sums in 32 bits and of batches of other sizes, enlarged by a scale of 7.5.
CLOSE = {"rtol": 0, "atol": 1e-4}
SDXL = Interval(0.28, 5.42)


@pytest.fixture(scope="module")
def pipeline() -> LegoPipeline:
    torch.manual_seed(3)
    return LegoPipeline.from_parts(build(ATTENTIVE))


@pytest.mark.parametrize(
    ("text", "image", "rows"),
    [
        (7.5, 1.5, (0, 1, 2)),
        (7.5, 1.0, (0, 1)),
        (1.5, 1.5, (0, 2)),
        (0.0, 1.5, (1, 2)),
        (1.0, 1.0, (0,)),
        (0.0, 1.0, (1,)),
        (0.0, 0.0, (2,)),
        (1.0, 1.5, (0, 1, 2)),
    ],
)
def test_rows_without_weight_are_left_out(text: float, image: float, rows: tuple[int, ...]) -> None:
    """Witness: the whole rule."""
    assert rows_of(text, image) == rows
    predicted = torch.randn(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = guide(*predicted, text, image)
    # Three sums of numbers up to 7.5 times a few: an ulp of 32 is 4e-6.
    torch.testing.assert_close(combine([*predicted[list(rows)]], text, image), whole, rtol=0, atol=2e-5)
    if len(rows) == 3:
        assert combine([*predicted], text, image).equal(whole)


@torch.no_grad()
@pytest.mark.parametrize("plain", [True, False])
def test_a_step_is_guide_of_three_single_passes(pipeline: LegoPipeline, plain: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, source = torch.randn(2, 2, 4, 16, 16, generator=generator)
    context, null = torch.randn(2, 9, 32, generator=generator), torch.randn(1, 9, 32, generator=generator)
    t, unet = torch.tensor(600.0), pipeline.unet
    single = [
        unet(torch.cat([latents, images], dim=1), t, tokens).sample
        for images, tokens in (
            (source, context),
            (source, null.expand(2, -1, -1)),
            (torch.zeros_like(source), null.expand(2, -1, -1)),
        )
    ]
    before = unet.attn_processors
    if not plain:
        unet.set_attn_processor(AttnProcessor())
    try:
        guidance = Guidance(4.0, 1.5, Interval(1.0, 5.0), Interval(2.0, math.inf))
        with denoiser(unet, context, null, source, guidance) as predict:
            # Both act, the text alone does, none, and both again: other rows at each step.
            for sigma, text, image in ((3.0, 4.0, 1.5), (1.5, 4.0, 1.0), (1.0, 1.0, 1.0), (5.0, 4.0, 1.5)):
                found = predict(latents, t, sigma)
                torch.testing.assert_close(found, guide(*single, text, image), **CLOSE)
        assert predict.passes == 3 + 2 + 1 + 3 == passes(unet, guidance, (3.0, 1.5, 1.0, 5.0))
    finally:
        unet.set_attn_processor(before)


@pytest.mark.parametrize(
    ("name", "steps", "interval", "expected"),
    [
        ("euler_ancestral", 100, ALWAYS, 300),
        ("euler_ancestral", 100, SDXL, 246),
        ("dpmpp_2m", 20, ALWAYS, 60),
        ("dpmpp_2m", 20, SDXL, 50),
        ("euler", 20, SDXL, 48),
    ],
)
def test_passes_a_frame(
    pipeline: LegoPipeline, name: str, steps: int, interval: Interval, expected: int
) -> None:
    """Witness: the arithmetic for Stable Diffusion's noise levels and SDXL's interval."""
    scheduler = make_scheduler(name)
    scheduler.set_timesteps(steps)
    guidance = Guidance(7.5, 1.5, interval, interval)
    assert passes(pipeline.unet, guidance, noise_levels(scheduler)) == expected


def drawn(pipeline: LegoPipeline, **change: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    arguments = {
        "image": torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1, "prompt": ["cut", "open"],
        "noise": torch.randn(4, 2, 4, 16, 16, generator=generator), "num_inference_steps": 3,
        "output_type": "pt", **change,
    }  # fmt: skip
    with pipeline.quiet():
        images: torch.Tensor = pipeline(**arguments).images
    return images


def test_an_interval_of_all_levels_changes_nothing_and_one_of_none_is_no_guidance(
    pipeline: LegoPipeline,
) -> None:
    both = ("guidance_interval", "image_guidance_interval")
    assert drawn(pipeline, **dict.fromkeys(both, (0.0, 100.0))).equal(drawn(pipeline))
    never = drawn(pipeline, **dict.fromkeys(both, (50.0, 100.0)))
    assert never.equal(drawn(pipeline, guidance_scale=1.0, image_guidance_scale=1.0))


@pytest.mark.parametrize("interval", [(2.0, 1.0), (1.0, 1.0), (-1.0, 2.0), (math.nan, 1.0), (1.0,)])
def test_intervals_that_are_none(pipeline: LegoPipeline, interval: Sequence[float]) -> None:
    with pytest.raises(UserError, match=r"image_guidance_interval: got .*two noise levels, low and high"):
        drawn(pipeline, image_guidance_interval=interval)


def test_a_level_that_is_an_end_to_the_rounding_of_32_bits_is_that_end() -> None:
    level = 1.61827970012  # and as a scheduler has it, in 32 bits
    rounded = torch.tensor(level).item()
    assert level != rounded
    for given, asked in ((level, rounded), (rounded, level)):
        assert Interval(0.0, given).holds(asked)
        assert not Interval(given, 5.0).holds(asked)
    assert not Interval(0.0, level).holds(level * 1.001)
