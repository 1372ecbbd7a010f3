from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.frames import FolderFrames, check_frames, open_frames, pack, read_frame
from llava.checkpoints.clip_tower import load_image_processor, pixels, read_clip
from llava.tuning.conversations import ConversationDataset, Example
from tests.llava.conftest import ORACLE, Loaded

RECORDED = np.load(ORACLE / "pixels.npz")


@pytest.mark.parametrize("name", ["im0.png", "im1.png", "im2.png", "im3.png"])
def test_pixels_equal_the_published_ones(name: str, loaded: Loaded) -> None:
    assert np.array_equal(
        pixels([read_frame(ORACLE / "images" / name)], loaded[2])[0].numpy(), RECORDED[name]
    )


def test_without_a_preprocessor_file_clip_s_usual_one_is_made(tmp_path: Path, tiny: Path) -> None:
    config = read_clip(tiny.parent / "openai" / "clip-tiny-v").config
    config.image_size = 224
    big = pixels([read_frame(ORACLE / "images" / "big.png")], load_image_processor(tmp_path, config))[0]
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
        assert read_frame(tmp_path / "x.png").mode == "RGB"


def test_broken_and_missing_images_are_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    frames = FolderFrames(tmp_path)
    check_frames(frames, ["good.jpg"])
    for name, message in (
        ("cut.jpg", "cut off"),
        ("text.jpg", "no image"),
        ("none.jpg", "no such frame"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            check_frames(frames, ["good.jpg", name])
    with pytest.raises(UserError, match="1 more frames have faults"):
        check_frames(frames, ["cut.jpg", "none.jpg"])


def test_16_bits_are_scaled_to_8_and_not_clipped(tmp_path: Path, loaded: Loaded) -> None:
    eight = np.arange(60 * 80, dtype=np.uint32).reshape(60, 80) % 256
    Image.fromarray(eight.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((257 * eight).astype(np.uint16)).save(tmp_path / "16.png")  # 65535 is white, as 255 is
    deep = read_frame(tmp_path / "16.png")
    assert np.array_equal(np.asarray(deep), np.repeat(eight[..., None], 3, axis=2))
    examples = [Example([1], [1], "8.png"), Example([1], [1], "16.png")]
    seen = ConversationDataset(examples, open_frames(tmp_path), loaded[2])
    assert seen[0][1].equal(seen[1][1])
    assert seen[0][1].equal(pixels([deep], loaded[2])[0])


def test_packed_frames_are_learnt_from_as_single_files_are(tmp_path: Path, loaded: Loaded) -> None:
    names = [f"im{index}.png" for index in range(4)]
    pack(ORACLE / "images", names, tmp_path)
    examples = [Example([1], [1], name) for name in names]
    packed, single = (
        ConversationDataset(examples, open_frames(place), loaded[2])
        for place in (tmp_path, ORACLE / "images")
    )
    for index, name in enumerate(names):
        assert packed[index][1].equal(single[index][1])
        assert np.array_equal(packed[index][1].numpy(), RECORDED[name])


def test_a_jpeg_of_a_few_pixels_can_be_checked(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "small.jpg")
    check_frames(FolderFrames(tmp_path), ["small.jpg"])
