"""The pipeline: batches, round trip through the Hugging Face layout, schedulers, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ldm.pipeline
from egogen.errors import UserError
from ldm.conditioner import embed
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.diffusion.sampler import LogLinearEulerAncestral, make_scheduler
from ldm.networks.architecture import Parts, build
from ldm.pipeline import LegoPipeline
from ldm.sampling.methods import wrap
from tests.ldm.toy_run import SHAPE, WIDTH

Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def pipeline() -> LegoPipeline:
    torch.manual_seed(1)
    made = LegoPipeline.from_parts(build(SHAPE))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def arguments() -> Arguments:
    generator = torch.Generator().manual_seed(2)
    return {
        "image": torch.rand(3, 3, 32, 48, generator=generator) * 2 - 1,
        "prompt": ["open the box", "cut the apple with the left hand", ""],
        "vllm_image_features": torch.randn(3, 256, WIDTH, generator=generator),
        "vllm_text_features": torch.randn(3, 77, WIDTH, generator=generator),
        "noise": torch.randn(5, 3, 4, 16, 24, generator=generator),
        "num_inference_steps": 4,
        "output_type": "pt",
    }


def one(arguments: Arguments, index: int) -> Arguments:
    picked = {name: value[index : index + 1] for name, value in arguments.items() if name not in KEPT}
    return {**arguments, **picked, "noise": arguments["noise"][:, index : index + 1]}


KEPT = ("noise", "num_inference_steps", "output_type")


def test_a_batch_equals_its_frames_one_by_one(pipeline: LegoPipeline, arguments: Arguments) -> None:
    batch = pipeline(**arguments).images
    assert batch.shape == (3, 3, 32, 48)
    for index in range(3):
        torch.testing.assert_close(
            pipeline(**one(arguments, index)).images[0], batch[index], rtol=0, atol=1e-4
        )


def test_round_trip_through_the_hugging_face_layout(
    pipeline: LegoPipeline, arguments: Arguments, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "conditioner" / "diffusion_pytorch_model.safetensors").exists()
    again = LegoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, LogLinearEulerAncestral)
    torch.testing.assert_close(again(**arguments).images, pipeline(**arguments).images)


def test_seeded_generators_give_each_frame_its_own_noise(
    pipeline: LegoPipeline, arguments: Arguments
) -> None:
    plain = {name: value for name, value in arguments.items() if name != "noise"}
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    batch = pipeline(**plain, generator=seeds).images
    alone = {name: value[1:2] for name, value in plain.items() if name not in KEPT}
    single = pipeline(**{**plain, **alone}, generator=[torch.Generator().manual_seed(6)]).images
    torch.testing.assert_close(single[0], batch[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "ddim", "euler", "PNDMScheduler"])
def test_other_schedulers_run(arguments: Arguments, name: str) -> None:
    torch.manual_seed(1)
    pipeline = LegoPipeline.from_parts(build(SHAPE), name)
    pipeline.set_progress_bar_config(disable=True)
    plain = {name: value for name, value in arguments.items() if name != "noise"}
    assert pipeline(**plain, generator=torch.Generator().manual_seed(0)).images.isfinite().all()


def test_unknown_scheduler_is_named() -> None:
    with pytest.raises(UserError, match="scheduler 'euler_b': allowed are euler_ancestral"):
        make_scheduler("euler_b")


def test_pictures_come_as_asked(pipeline: LegoPipeline) -> None:
    image = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    call = {"image": image, "prompt": "open the box", "num_inference_steps": 1}
    assert pipeline(**call).images[0].size == (32, 32)
    array = pipeline(**call, output_type="np").images
    assert array.shape == (1, 32, 32, 3)
    assert 0 <= array.min() <= array.max() <= 1
    with pytest.raises(UserError, match="output_type 'jpg'"):
        pipeline(**call, output_type="jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ["one"]}, "got 1 for 3 images"),
        ({"vllm_text_features": None}, "give both or neither"),
        ({"noise": torch.zeros(3, 3, 4, 16, 24)}, "got 3 entries for 4 steps, expected 5"),
        ({"image": torch.zeros(3, 3, 33, 48)}, "multiples of 2"),
        ({"num_inference_steps": 0, "noise": torch.zeros(1, 3, 4, 16, 24)}, "at least 1"),
        (
            {"num_inference_steps": 1001},
            "num_inference_steps: got 1001, allowed: at least 1 and at most 1000",
        ),
        (
            {"image": torch.zeros(3, 32, 48)},
            r"image: got torch\.float32 of shape \(3, 32, 48\), expected floats",
        ),
        ({"image": torch.zeros(3, 1, 32, 48)}, r"expected floats \[b, 3, h, w\]"),
        ({"image": torch.zeros(0, 3, 32, 48)}, r"expected floats \[b, 3, h, w\]"),
        ({"image": torch.zeros(3, 3, 32, 48, dtype=torch.uint8)}, r"image: got torch\.uint8"),
        ({"image": torch.full((3, 3, 32, 48), math.nan)}, "image: 13824 of 13824 values are not finite"),
        ({"image": []}, "image: expected a picture, at least one in a list"),
        ({"image": [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 2))]}, "must be of one size"),
        (
            {"vllm_image_features": torch.zeros(2, 256, WIDTH)},
            r"image_features: got \(2, 256, .*expected \(3, ",
        ),
        (
            {"vllm_image_features": torch.zeros(1, 256, WIDTH)},
            r"image_features: got \(1, 256, .*expected \(3, ",
        ),
        ({"vllm_image_features": torch.zeros(256, WIDTH)}, r"image_features: got \(256, .*expected \(3, 256"),
        ({"vllm_image_features": torch.zeros(3, 257, WIDTH)}, r"got \(3, 257, .*expected \(3, 256"),
        ({"vllm_image_features": torch.zeros(3, 256, WIDTH + 8)}, "width of the checkpoint's VLLM"),
        (
            {"vllm_text_features": torch.zeros(3, 28, WIDTH)},
            r"got \(3, 28, .*expected \(3, 77, .*fit_tokens pads",
        ),
        ({"vllm_text_features": torch.zeros(3, 77, WIDTH - 1)}, r"text_features: got \(3, 77, .*expected"),
        (
            {"vllm_text_features": torch.full((3, 77, WIDTH), math.inf)},
            "text_features: .* values are not finite",
        ),
        (
            {"noise": torch.zeros(5, 2, 4, 16, 24)},
            r"noise: got \(5, 2, 4, 16, 24\), expected \(5, 3, 4, 16, 24\)",
        ),
        ({"noise": torch.zeros(5, 3, 4, 16, 16)}, "noise: got .* expected"),
        ({"noise": torch.full((5, 3, 4, 16, 24), math.nan)}, "noise: .* values are not finite"),
        (
            {"noise": None, "latents": torch.zeros(3, 4, 16, 16)},
            r"latents: got \(3, 4, 16, 16\), expected \(3, 4, 1",
        ),
        (
            {"noise": None, "latents": torch.zeros(1, 4, 16, 24)},
            r"latents: got \(1, 4, 16, 24\), expected \(3, 4",
        ),
        ({"latents": torch.zeros(3, 4, 16, 24)}, "latents and noise: give one of the two"),
        ({"generator": [torch.Generator()] * 2, "noise": None}, "generator: got a list of 2 for 3 images"),
        ({"guidance_scale": math.nan}, "guidance_scale: got nan, allowed: a number from 0 to 1e\\+09"),
        ({"guidance_scale": -1.0}, "guidance_scale: got -1.0"),
        ({"image_guidance_scale": math.inf}, "image_guidance_scale: got inf"),
    ],
)
def test_wrong_arguments(
    pipeline: LegoPipeline, arguments: Arguments, change: Arguments, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(**{**arguments, **change})


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_frames_that_are_not_finite_are_an_error(arguments: Arguments, output_type: str) -> None:
    torch.manual_seed(1)
    broken = LegoPipeline.from_parts(build(SHAPE))
    broken.set_progress_bar_config(disable=True)
    torch.nn.init.constant_(broken.unet.conv_out.weight, math.nan)
    call = {**arguments, "output_type": output_type}
    with pytest.raises(
        ValueError, match=r"drawn frames: not finite, as are 3 of 3 \(the first is number 0\)"
    ):
        broken(**call)
    assert broken(**call, check_finite=False).images is not None


def test_a_photo_is_seen_upright(pipeline: LegoPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    upright = Image.effect_noise((32, 48), 90).convert("RGB")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
    noise = torch.zeros(2, 1, 4, 24, 16)
    call: Arguments = {"prompt": "cut", "num_inference_steps": 1, "noise": noise, "output_type": "pt"}
    with Image.open(tmp_path / "x.png") as photo:
        assert pipeline(image=photo, **call).images.equal(pipeline(image=upright, **call).images)


def test_the_empty_text_is_encoded_for_each_drawing_unless_it_is_given(
    pipeline: LegoPipeline, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who draws a folder encodes it once (`ldm.sampling.methods.wrap`): the same frames, bit by bit."""
    drawn = pipeline(**arguments).images
    texts: list[Sequence[str]] = []
    monkeypatch.setattr(ldm.pipeline, "embed", lambda *given: texts.append(given[2]) or embed(*given))
    assert torch.equal(pipeline(**arguments).images, drawn)
    assert texts == [arguments["prompt"], [""]]
    monkeypatch.setattr(pipeline, "null_text", pipeline.encode_nothing())
    texts.clear()
    assert torch.equal(pipeline(**arguments).images, drawn)
    assert texts == [arguments["prompt"]]
    parts = Parts(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.conditioner)
    texts.clear()
    wrap("lego", parts, load_config(GenerateConfig, [], []), torch.device("cpu"))
    assert texts == [[""]]
