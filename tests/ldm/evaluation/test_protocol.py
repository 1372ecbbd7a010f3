"""How the protocols read frames: precision, sizes, resizing. Witnesses: torchvision, Pillow, closed forms."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as shorter_side_to

from egogen.errors import UserError
from ldm.metrics.frames import protocol
from ldm.metrics.frames.images import Size, check_image, read_image, read_pixels
from ldm.metrics.frames.protocol import check_shapes, choose_precision, fewer_bits, match_size
from ldm.metrics.frames.resize import cover, normalize, resize

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tiles", [True, False])
def test_what_precision_means_on_a_device(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "has_tiles", lambda: tiles)
    for device in (CPU, GPU):
        for wanted in ("32", "tf32", "bf16"):
            assert choose_precision(wanted, device) == wanted
        on_tiles = tiles and device == CPU
        assert choose_precision("auto", device) == ("tiles" if on_tiles else "32")
        if on_tiles:
            assert choose_precision("tiles", device) == "tiles"
            continue
        with pytest.raises(UserError) as told:
            choose_precision("tiles", device)
        assert str(told.value) == (
            f"precision 'tiles': {device} has none; allowed here are 32, tf32, bf16 and auto"
        )
    with pytest.raises(UserError) as told:
        choose_precision("16", CPU)
    assert str(told.value) == "precision '16': allowed are 32, tf32, tiles, bf16, auto"


@pytest.mark.parametrize(
    ("precision", "products", "tf32"),
    [
        ("32", "highest", False),
        ("bf16", "highest", False),
        ("tf32", "high", True),
        ("tiles", "medium", False),
    ],
)
def test_products_are_as_asked_for_while_it_lasts(precision: Any, products: str, tf32: bool) -> None:
    cudnn = torch.backends.cudnn

    def state() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32

    def interrupted() -> None:
        with fewer_bits(precision):
            assert state() == (products, tf32)
            raise KeyboardInterrupt

    at_first = state()
    try:
        for before in (("high", True), ("highest", False)):
            torch.set_float32_matmul_precision(before[0])
            cudnn.allow_tf32 = before[1]
            with pytest.raises(KeyboardInterrupt):
                interrupted()
            assert state() == before
    finally:
        torch.set_float32_matmul_precision(at_first[0])
        cudnn.allow_tf32 = at_first[1]


def test_frames_come_to_the_size_of_their_targets() -> None:
    frames = noise(2, 3, 6, 9)
    assert match_size(frames, torch.zeros(2, 3, 6, 9)) is frames
    fitted = match_size(frames, torch.zeros(2, 3, 4, 5))
    # Height and width may not be mistaken for each other.
    expected = torch.nn.functional.interpolate(frames, (4, 5), mode="bilinear", align_corners=False)
    assert torch.equal(fitted, expected)
    torch.testing.assert_close(match_size(frames.mT, torch.zeros(2, 3, 5, 4)), expected.mT)


def test_unequal_shapes_are_told() -> None:
    check_shapes(noise(2, 3, 4, 5), noise(2, 3, 4, 5))
    with pytest.raises(ValueError, match="generated") as told:
        check_shapes(noise(2, 1, 4, 5), noise(2, 3, 4, 5))
    assert str(told.value) == (
        "generated frames of shape (2, 1, 4, 5), targets of (2, 3, 4, 5); expected both as [b, 3, h, w]"
    )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_middle_is_cut_as_in_torchvision(mode: str, antialias: bool) -> None:
    for height, width in ((20, 33), (33, 20), (21, 21), (20, 41), (41, 20), (14, 15)):
        frames = noise(1, 3, height, width)
        made = shorter_side_to(frames, [14], InterpolationMode(mode), antialias=antialias)
        torch.testing.assert_close(cover(frames, 14, mode, antialias), center_crop(made, [14, 14]))
    expected = shorter_side_to(noise(1, 3, 9, 8), [5, 7], InterpolationMode(mode), antialias=antialias)
    torch.testing.assert_close(resize(noise(1, 3, 9, 8), 5, 7, mode, antialias), expected)


def test_each_channel_is_brought_to_its_scale() -> None:
    frames = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    found = normalize(frames, (0.5, 1.0, 5.0), (0.5, 0.25, 4.0))
    assert found.shape == frames.shape
    assert found[1, :, 3, 4].tolist() == [1.0, 4.0, -0.5]


def test_sizes_are_near_where_both_sides_are() -> None:
    size = Size(10, 20)
    for other, apart in ((Size(10, 20), 0), (Size(12, 20), 2), (Size(10, 17), 3), (Size(9, 24), 4)):
        assert size.near(other, apart)
        assert other.near(size, apart)
        assert not size.near(other, apart - 1)


def test_what_a_check_learns_of_a_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG"):
        path = tmp_path / f"x.{form}"
        Image.fromarray(pixels).save(path, form)
        assert check_image(path) == ((40, 24), form, hashlib.sha256(path.read_bytes()).hexdigest())
    assert torch.equal(read_pixels(tmp_path / "x.PNG"), torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(read_image(tmp_path / "x.PNG"), torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_what_is_no_frame_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(UserError) as told:
        check_image(path)
    assert str(told.value) == f"{path}: a L image of PNG format, expected RGB; save it with three channels"
    Image.effect_noise((32, 18), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-400])
    for read in (check_image, read_pixels):
        with pytest.raises(UserError) as told:
            read(path)
        assert str(told.value).startswith(f"{path}: not a whole image (")
        assert str(told.value).endswith("); make this frame again")
        assert "(None)" not in str(told.value)


def test_a_jpeg_is_checked_at_an_eighth_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []
    load = Image.Image.load
    for size in ((160, 80), (5, 7)):
        Image.new("RGB", size).save(tmp_path / f"{size[0]}.jpg")

    monkeypatch.setattr(JpegImageFile, "load", lambda image: (loaded.append(image.size), load(image))[1])
    assert check_image(tmp_path / "160.jpg").size == (80, 160)
    assert check_image(tmp_path / "5.jpg").size == (7, 5)
    assert loaded[0] == (20, 10)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(UserError, match=r"x\.jpg: "):
        check_image(tmp_path / "x.jpg")
