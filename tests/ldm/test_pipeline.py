"""The pipeline: batches, round trip through the Hugging Face layout, schedulers, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.errors import UserError
from ldm.diffusion.sampler import LogLinearEulerAncestral, make_scheduler
from ldm.networks.architecture import build
from ldm.pipeline import LegoPipeline
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
    ],
)
def test_wrong_arguments(
    pipeline: LegoPipeline, arguments: Arguments, change: Arguments, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(**{**arguments, **change})
