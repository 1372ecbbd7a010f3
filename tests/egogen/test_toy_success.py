"""How often `success` says yes: to true targets, and to frames without the event."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from egogen.annotations import ClipMetadata
from egogen.errors import UserError
from egogen.seeds import item_seed
from egogen.toy import staging, success
from egogen.toy.actions import imagine
from egogen.toy.clip_facts import FramePair, metadata
from egogen.toy.palette import COLOURS
from egogen.toy.render import Renderer
from egogen.toy.scene import OTHER, hand_for
from egogen.toy.wording import description, label

COUNT = 150
Pair = tuple[FramePair, dict[str, Any]]
Change = Callable[[Image.Image], Image.Image]


def pairs(size: int, count: int) -> list[Pair]:
    made = []
    for index in range(count):
        story = imagine(item_seed(11, str(size), str(index)))
        renderer = Renderer(story.scene, size)
        frames = FramePair(renderer.draw(story.before), renderer.draw(story.after))
        made.append((frames, metadata(story, frames, label(story, "ego4d"), description(story))))
    return made


@pytest.fixture(scope="module")
def world() -> list[Pair]:
    return pairs(64, COUNT)


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    return Image.open(stream).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def square(image: Image.Image) -> Image.Image:
    return image.resize((64, 64), Image.Resampling.BICUBIC)


def blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.height / 64))


def drift(image: Image.Image) -> Image.Image:
    values = np.asarray(image, float) * 0.94 + np.array([10, 2, -2])
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def noisy(image: Image.Image) -> Image.Image:
    values = np.asarray(image, float) + np.random.default_rng(0).normal(0, 60, (image.height, image.width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def smear(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.height / 16))


def same(image: Image.Image) -> Image.Image:
    return image


def rate(frames: list[Image.Image], world: list[Pair]) -> float:
    return float(np.mean([success(frame, facts) for frame, (_, facts) in zip(frames, world, strict=True)]))


@pytest.mark.parametrize("change", [same, jpeg, half, square, blur, drift])
def test_true_targets_pass(world: list[Pair], change: Change) -> None:
    assert rate([change(frames.after) for frames, _ in world], world) >= 0.98


@pytest.mark.parametrize("change", [same, jpeg, half, noisy, smear])
def test_source_frames_fail(world: list[Pair], change: Change) -> None:
    assert rate([change(frames.before) for frames, _ in world], world) <= 0.02


@pytest.mark.parametrize("size", [32, 48, 128])
def test_rates_hold_at_other_sizes(size: int) -> None:
    others = pairs(size, 60)
    assert rate([frames.after for frames, _ in others], others) >= 0.98
    assert rate([frames.before for frames, _ in others], others) <= 0.02


def test_targets_of_other_clips_fail(world: list[Pair]) -> None:
    targets = [frames.after for frames, _ in world]
    assert rate([*targets[1:], targets[0]], world) <= 0.05


def test_mirrored_targets_fail(world: list[Pair]) -> None:
    mirrored = [frames.after.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frames, _ in world]
    assert rate(mirrored, world) <= 0.05


def test_the_wrong_hand_fails(world: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    # Things that leave the table for want of a place across make no story.
    monkeypatch.setattr(staging, "hand_for", lambda place, forward: OTHER[hand_for(place, forward)])
    frames, facts = [], []
    for index, pair in enumerate(world):
        if pair[1]["verb"] in ("push", "wipe", "close", "put down"):
            continue
        story = imagine(item_seed(11, "64", str(index)))
        assert story.hand != pair[1]["hand"]
        frames.append(Renderer(story.scene, 64).draw(story.after))
        facts.append(pair)
    assert len(frames) > 50
    assert rate(frames, facts) <= 0.05


def test_flat_frames_fail(world: list[Pair]) -> None:
    size = world[0][0].after.size
    for colour in ("grey", "black", "white"):
        assert rate([Image.new("RGB", size, colour)] * COUNT, world) == 0
    for name in ("skin", "table"):
        assert rate([Image.new("RGB", size, tuple(facts[name])) for _, facts in world], world) <= 0.02
    own = [Image.new("RGB", size, COLOURS[facts["object_colour"]]) for _, facts in world]
    assert rate(own, world) <= 0.02


def test_a_target_without_its_hand_fails(world: list[Pair]) -> None:
    frames = []
    for pair, facts in world:
        frame, box = pair.after.copy(), facts["hand_box_1"]
        left, top = round(box["x"]), round(box["y"])
        frame.paste(
            tuple(facts["table"]), (left, top, left + round(box["width"]), top + round(box["height"]))
        )
        frames.append(frame)
    assert rate(frames, world) <= 0.02


def test_arrays_and_metadata_models_are_read(world: list[Pair]) -> None:
    frames, facts = world[0]
    assert success(np.asarray(frames.after), ClipMetadata.model_validate(facts))
    assert not success(np.asarray(frames.before), facts)


def test_other_metadata_are_refused(world: list[Pair]) -> None:
    with pytest.raises(
        UserError, match=r"toy metadata: the field 'skin' is missing; found 'height', 'width'"
    ):
        success(world[0][0].after, {"height": 64, "width": 114})
