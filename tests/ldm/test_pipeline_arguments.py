"""What users of diffusers expect of a pipeline's call, against the stock InstructPix2Pix of its networks.

The stock attention sums in another order: frames agree to 1e-4 of a range of 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image
from torch import Generator, Tensor

from egogen.errors import UserError
from ldm.checkpoints.writing import published_state, write
from ldm.networks.architecture import build
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import SHAPE, WIDTH

STEPS = 3
PROMPTS = ["open the box", "cut the apple"]


@pytest.fixture(scope="module")
def pipeline() -> LegoPipeline:
    torch.manual_seed(1)
    made = LegoPipeline.from_parts(build(SHAPE), "EulerAncestralDiscreteScheduler")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def stock(pipeline: LegoPipeline) -> StableDiffusionInstructPix2PixPipeline:
    """The same networks and scheduler."""
    made = StableDiffusionInstructPix2PixPipeline(
        vae=pipeline.vae, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer,
        unet=pipeline.unet, scheduler=type(pipeline.scheduler).from_config(pipeline.scheduler.config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)) for _ in PROMPTS]


def seeds(*numbers: int) -> list[Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def close(ours: Any, theirs: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=0, atol=atol)


@pytest.mark.parametrize("negative", ["a blurred hand", ["a blurred hand", "no box"]], ids=["one", "each"])
def test_negative_prompts(pipeline: Any, stock: Any, photos: list[Image.Image], negative: Any) -> None:
    call = {"image": photos, "prompt": PROMPTS, "num_inference_steps": STEPS, "output_type": "np"}
    plain = pipeline(**call, generator=seeds(5, 6)).images
    ours = pipeline(**call, generator=seeds(5, 6), negative_prompt=negative).images
    each = [negative] * 2 if isinstance(negative, str) else negative  # the stock one takes no text for a list
    close(ours, stock(**call, generator=seeds(5, 6), negative_prompt=each).images)
    assert abs(ours - plain).max() > 1e-3
    # Without one it is the empty text.
    assert np.array_equal(plain, pipeline(**call, generator=seeds(5, 6), negative_prompt="").images)


def test_negative_prompts_with_features(pipeline: Any, photos: list[Image.Image]) -> None:
    """A frame in a batch with its own is as alone with it: witness is the pipeline itself."""
    draws = torch.Generator().manual_seed(0)
    image, text = (torch.randn(2, tokens, WIDTH, generator=draws) for tokens in (256, 77))
    negatives = ["a blurred hand", "no box"]
    both = pipeline(
        photos, PROMPTS, image, text, num_inference_steps=STEPS, generator=seeds(5, 6), output_type="pt",
        negative_prompt=negatives,
    ).images  # fmt: skip
    for row in range(2):
        one = slice(row, row + 1)
        alone = pipeline(
            photos[row], PROMPTS[row], image[one], text[one], num_inference_steps=STEPS, output_type="pt",
            generator=seeds(5 + row), negative_prompt=negatives[row],
        ).images  # fmt: skip
        close(alone[0], both[row])


def test_several_frames_of_one_photo(pipeline: Any, stock: Any, photos: list[Image.Image]) -> None:
    call = {"num_inference_steps": STEPS, "num_images_per_prompt": 3, "output_type": "np"}
    ours = pipeline(photos[0], PROMPTS[0], **call, generator=seeds(1, 2, 3)).images
    close(ours, stock(PROMPTS[0], photos[0], **call, generator=seeds(1, 2, 3)).images)
    # By one generator too.
    one = pipeline(photos[0], PROMPTS[0], **call, generator=seeds(1)[0]).images
    close(one, stock(PROMPTS[0], photos[0], **call, generator=seeds(1)[0]).images)


def test_several_frames_of_several_photos(pipeline: Any, photos: list[Image.Image]) -> None:
    """Those of one photo lie one behind the other; the stock one's photos and texts go apart here."""
    call = {"num_inference_steps": STEPS, "output_type": "np"}
    made = pipeline(
        photos, PROMPTS, **call, num_images_per_prompt=2, generator=seeds(1, 2, 3, 4),
        negative_prompt=["no hand", ""],
    ).images  # fmt: skip
    one, other = photos
    first, second = PROMPTS
    close(made, pipeline(
        [one, one, other, other], [first, first, second, second], **call, generator=seeds(1, 2, 3, 4),
        negative_prompt=["no hand", "no hand", "", ""],
    ).images)  # fmt: skip


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(pipeline: Any, stock: Any, photos: list[Image.Image], output_type: str) -> None:
    """The stock `pt` is in [0, 1] and cut off there, ours as the VAE gives it, about [-1, 1]."""
    call = {"num_inference_steps": STEPS, "output_type": output_type}
    ours = pipeline(photos[0], PROMPTS[0], **call, generator=seeds(1)[0]).images
    theirs = stock(PROMPTS[0], photos[0], **call, generator=seeds(1)[0]).images
    if output_type == "pil":
        assert abs(np.asarray(ours[0], int) - np.asarray(theirs[0], int)).max() <= 1
    elif output_type == "pt":
        close((ours / 2 + 0.5).clamp(0, 1), theirs)
    else:
        close(ours, theirs, 1e-4 if output_type == "np" else 1e-3)


def test_callbacks_are_told_of_each_step_and_may_change_it(
    pipeline: Any, stock: Any, photos: list[Image.Image]
) -> None:
    told: dict[Any, list[Any]] = {pipeline: [], stock: []}

    def back(drawing: Any, step: int, t: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        told[drawing].append((step, float(t), given["latents"].clone()))
        return {"latents": given["latents"] * 0.5}

    call = {"num_inference_steps": STEPS, "output_type": "np", "callback_on_step_end": back}
    ours = pipeline(photos[0], PROMPTS[0], **call, generator=seeds(1)[0]).images
    close(ours, stock(PROMPTS[0], photos[0], **call, generator=seeds(1)[0]).images)
    assert len(told[pipeline]) == STEPS
    for mine, theirs in zip(told[pipeline], told[stock], strict=True):
        assert mine[:2] == theirs[:2]
        close(mine[2], theirs[2], 1e-3)


def test_a_callback_can_have_the_clean_latents(pipeline: Any, photos: list[Image.Image]) -> None:
    """At the last step, which goes to no noise, they are the latents themselves."""
    last: dict[str, Tensor] = {}

    def back(_drawing: Any, _step: int, _t: Tensor, given: dict[str, Tensor]) -> None:
        last.update(given)

    names = ["latents", "clean_latents"]
    call = {"num_inference_steps": STEPS, "callback_on_step_end": back, "output_type": "latent"}
    made = pipeline(
        photos[0], PROMPTS[0], **call, callback_on_step_end_tensor_inputs=names, generator=seeds(1)[0]
    )
    assert last.keys() == set(names)
    close(last["clean_latents"], made.images, 1e-4)


def test_weights_in_16_bits(photos: list[Image.Image], tmp_path: Path) -> None:
    """Loaded so they draw as when they are turned to it: a conversion, not another computation."""
    write(tmp_path / "lego.ckpt", published_state(build(SHAPE), SHAPE), SHAPE)
    single = LegoPipeline.from_single_file(tmp_path / "lego.ckpt", torch_dtype=torch.bfloat16)
    single.save_pretrained(tmp_path / "folder")
    again = LegoPipeline.from_pretrained(tmp_path / "folder", torch_dtype=torch.bfloat16)
    frames = []
    for made in (single, again):
        made.set_progress_bar_config(disable=True)
        for name in ("unet", "vae", "text_encoder", "conditioner"):
            assert {each.dtype for each in getattr(made, name).parameters()} == {torch.bfloat16}
        features = torch.ones(1, 256, WIDTH), torch.ones(1, 77, WIDTH)
        call = {"num_inference_steps": STEPS, "generator": seeds(1)[0], "output_type": "pt"}
        frames.append(made(photos[0], PROMPTS[0], *features, **call).images)
    assert frames[0].equal(frames[1])
    assert frames[0].isfinite().all()
    assert LegoPipeline.from_single_file(tmp_path / "lego.ckpt").unet.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negative_prompt": ["one"]}, "negative_prompt: got 1 for 2 images, expected one text, or one each"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: got 0, allowed: at least 1"),
        ({"num_images_per_prompt": 2, "generator": seeds(1, 2)}, "generator: got a list of 2 for 4 images"),
        ({"num_images_per_prompt": 2, "latents": torch.zeros(2, 4, 8, 12)}, r"got \(2, .*expected \(4,"),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            "callback_on_step_end_tensor_inputs: got 'prompt_embeds', allowed: latents, clean_latents",
        ),
        (
            {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)},
            "tensor_inputs: got 'prompt_embeds', allowed: latents, clean_latents",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments(
    pipeline: Any, photos: list[Image.Image], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(photos, PROMPTS, num_inference_steps=STEPS, **change)


def test_noise_in_place_of_every_draw_needs_steps_that_take_it(
    pipeline: Any, photos: list[Image.Image]
) -> None:
    """The fixture's scheduler is diffusers' own, whose steps draw by a generator alone."""
    with pytest.raises(UserError, match=r"noise: the steps of EulerAncestralDiscreteScheduler draw noise of"):
        pipeline(photos[0], PROMPTS[0], num_inference_steps=STEPS, noise=torch.zeros(STEPS + 1, 1, 4, 8, 12))
