"""CLIP's input: equal to transformers' processor on PIL images; other preparations are refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.clip_pixels import ClipPixels, read_clip_pixels
from egogen.errors import UserError

SIDES = (56, 224, 225)
FRAMES = ((455, 256), (256, 455), (57, 57), (300, 13), (225, 224))
NEW = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}


@pytest.mark.parametrize(("side", "frame"), list(itertools.product(SIDES, FRAMES)))
def test_pixels_equal_those_of_transformers(side: int, frame: tuple[int, int]) -> None:
    width, height = frame
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    expected = theirs([image], return_tensors="np")["pixel_values"][0]
    made = ClipPixels.parse(theirs.to_dict(), "here")(image)
    assert made.dtype == expected.dtype == np.float32
    assert np.array_equal(made, expected)


def test_old_and_new_settings_are_read(tmp_path: Path) -> None:
    assert read_clip_pixels(tmp_path, 224) == ClipPixels(224, 224)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": 56, "crop_size": 56, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}))
    assert read_clip_pixels(tmp_path, 56) == ClipPixels(56, 56, mean=(0.1, 0.2, 0.3))
    path.write_text(json.dumps({**NEW, "resample": 2, "rescale_factor": 0.5}))
    assert read_clip_pixels(tmp_path, 56) == ClipPixels(64, 56, factor=0.5, resample=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "do_center_crop is false"),
        ({"size": {"height": 64, "width": 64}}, "no 'shortest_edge'"),
        ({"size": "large"}, "not the settings of CLIP's image processor"),
        ({"size": 40}, "expected a shortest edge"),
        ({"crop_size": {"height": 56, "width": 40}}, "expected a shortest edge"),
        ({"image_mean": [0.5]}, "1 means; expected"),
        ({"resample": 77}, "77 is not a valid Resampling"),
    ],
)
def test_other_preparations_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**NEW, **change}))
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: .*{message}"):
        read_clip_pixels(tmp_path, 56)


def test_a_crop_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(NEW))
    with pytest.raises(UserError, match=r"crops to 56, the vision tower takes 224 x 224"):
        read_clip_pixels(tmp_path, 224)
