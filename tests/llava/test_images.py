from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from llava.checkpoints.clip_tower import read_clip
from llava.images import check_images, load_image_processor, open_image, pixels
from tests.llava.conftest import ORACLE, Loaded

RECORDED = np.load(ORACLE / "pixels.npz")


@pytest.mark.parametrize("name", ["im0.png", "im1.png", "im2.png", "im3.png"])
def test_pixels_equal_the_published_ones(name: str, loaded: Loaded) -> None:
    assert np.array_equal(
        pixels([open_image(ORACLE / "images" / name)], loaded[2])[0].numpy(), RECORDED[name]
    )


def test_without_a_preprocessor_file_clip_s_usual_one_is_made(tmp_path: Path, tiny: Path) -> None:
    config = read_clip(tiny.parent / "openai" / "clip-tiny-v").config
    config.image_size = 224
    big = pixels([open_image(ORACLE / "images" / "big.png")], load_image_processor(tmp_path, config))[0]
    assert np.array_equal(big[:, [0, 100, 223]].numpy(), RECORDED["big.png@224_rows_0_100_223"])


def test_a_processor_of_another_size_is_refused(tiny: Path) -> None:
    folder = tiny.parent / "openai" / "clip-tiny-v"
    config = read_clip(folder).config
    config.image_size = 112
    with pytest.raises(UserError, match="takes 112 x 112"):
        load_image_processor(folder, config)


def test_grey_and_transparent_images_are_read_as_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (9, 7)).save(tmp_path / "x.png")
        assert open_image(tmp_path / "x.png").mode == "RGB"


def test_broken_and_missing_images_are_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    check_images([tmp_path / "good.jpg"])
    for name, message in (
        ("cut.jpg", "cut off"),
        ("text.jpg", "not an image"),
        ("none.jpg", "no such image"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            check_images([tmp_path / "good.jpg", tmp_path / name])
    with pytest.raises(UserError, match="and 1 more"):
        check_images([tmp_path / "cut.jpg", tmp_path / "none.jpg"])
