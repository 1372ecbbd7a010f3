"""Uploads: pictures of many kinds, turned; all else is refused with what to do. Shelves hold so much."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.frames import read_frame
from ldm.page.photos import Limits, decode_photo, read_photo
from ldm.page.scenes import examples
from ldm.page.shelf import NotKeptError, Shelf
from tests.ldm.page.running_page import png
from tests.small_disk import largest_file

LIMITS = Limits(0.5, 1.0)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that states many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9999))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_what_is_decoded_is_what_the_command_reads(kind: str, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(png(kind=kind))
    picture, found = decode_photo(png(kind=kind), LIMITS)
    assert found == kind
    assert np.array_equal(np.asarray(picture), np.asarray(read_frame(tmp_path / "photo")))


def test_a_photo_is_turned_and_its_view_says_nothing_of_the_camera() -> None:
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a camera"
    photo = read_photo(png(90, 48, kind="JPEG", exif=exif), LIMITS)
    assert (photo.width, photo.height, photo.suffix) == (48, 90, ".jpg")
    view = Image.open(io.BytesIO(photo.view))
    assert view.size == (48, 90)
    assert not view.getexif()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the upload is empty; choose a JPEG, PNG or WebP"),
        (b"#!/bin/sh\nrm -rf /", "no picture that is read here"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that is read here"),
        (png()[:3000], "cannot be read .* cut off"),
        (bomb(4000, 4000), "4000 x 4000 pixels; allowed are 1 megapixels; make it smaller"),
        (bomb(40000, 40000), "more pixels than can be real; allowed are 1 megapixels"),
        (bomb(2**31 - 1, 2**31 - 1), "more pixels than can be real"),
        (bomb(900, 900), "cannot be read"),
        (png(7, 9), "7 x 9 pixels; expected at least 8 along each side"),
        (png(400, 16), "no side 16 times the other"),
        (b"\0" * 500_001, "larger than 0.5 MB; make the picture smaller"),
    ],
)
def test_what_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_photo(content, LIMITS)


def test_large_photos_are_shown_small() -> None:
    made = io.BytesIO()
    Image.new("RGB", (1400, 700), "teal").save(made, "JPEG")
    photo = read_photo(made.getvalue(), LIMITS)
    assert (photo.width, photo.height) == (1400, 700)
    assert Image.open(io.BytesIO(photo.view)).size == (1024, 512)


def test_a_shelf_keeps_what_was_used_last(tmp_path: Path) -> None:
    shelf: Shelf[int] = Shelf(tmp_path / "shelf", 3, 100)
    names = [shelf.put(b"x" * 10, number) for number in range(3)]
    assert len(set(names)) == 3
    assert shelf.get(names[0]) == 0
    fourth = shelf.put(b"y", 3)
    assert [shelf.get(name) for name in (*names, fourth)] == [0, None, 2, 3]
    assert not shelf.path(names[1]).exists()
    last = shelf.put(b"z" * 100, 4)
    assert [path.name for path in shelf.folder.iterdir()] == [last]
    assert shelf.get("../x") is None


def test_a_shelf_whose_disk_is_full_says_so_and_keeps_nothing_half(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf: Shelf[int] = Shelf(tmp_path / "shelf", 3, 10_000)
    kept = shelf.put(b"x" * 10, 0)
    with (
        largest_file(100),
        pytest.raises(NotKeptError, match=r"^the page's disk does not take this file \(File too large\)$"),
    ):
        shelf.put(b"y" * 1000, 1)
    assert [path.name for path in shelf.folder.iterdir()] == [kept]
    assert shelf.bytes == 10
    assert f"{shelf.folder}: cannot be written" in caplog.text  # for who runs the page


def test_examples_are_pictures_with_actions_that_fit() -> None:
    made = examples(4, 64)
    assert len({example.content for example in made}) == 4
    for example in made:
        assert read_photo(example.content, LIMITS).height == 64
        assert len(example.actions) >= 3
    assert examples(1, 64) == made[:1]
