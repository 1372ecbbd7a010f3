"""One picture for every reader: turned as its camera noted, of any depth, transparent or not."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from egogen.clip_pixels import ClipPixels
from egogen.errors import UserError
from egogen.frames import FolderFrames, TarFrames, image_size, pack, read_frame
from egogen.rgb import to_rgb
from egogen.validate.frame_files import probe

CORNERS = np.zeros((24, 40, 3), np.uint8)  # each quarter of a colour of its own
CORNERS[:12, :20], CORNERS[:12, 20:], CORNERS[12:, :20] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
RAMP = np.arange(24 * 40, dtype=np.uint32).reshape(24, 40) % 256


def noted(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def bytes_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "JPG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_turns_a_photo_as_its_camera_noted(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exact = {"quality": 95, "subsampling": 0} if suffix.lower() == "jpg" else {}
    exact |= {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(CORNERS).save(path, exif=noted(orientation), **exact)
    with Image.open(path) as image:
        image.load()
        witness = ImageOps.exif_transpose(image)
        expected = bytes_of((image if witness is None else witness).convert("RGB"))
    assert expected.shape[:2] == ((40, 24) if orientation > 4 else (24, 40))
    pack(tmp_path, [path.name], tmp_path / "tars")
    readers = (FolderFrames(tmp_path), TarFrames(tmp_path / "tars"))
    for found in (read_frame(path), *(reader.read(path.name) for reader in readers)):
        assert np.array_equal(bytes_of(found), expected)
    height, width, _ = expected.shape
    assert image_size(path) == probe(path).size == (width, height)
    # Written again, it is not turned a second time.
    read_frame(path).save(tmp_path / "again.png")
    assert np.array_equal(bytes_of(read_frame(tmp_path / "again.png")), expected)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_a_tiff_of_any_colours_is_turned_whole(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(CORNERS).convert(mode)
    picture.save(tmp_path / "upright.tif")
    picture.save(tmp_path / "x.tif", exif=noted(6))
    expected = read_frame(tmp_path / "upright.tif").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(bytes_of(read_frame(tmp_path / "x.tif")), bytes_of(expected))


def test_clip_sees_an_opened_photo_as_both_readers_do(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(CORNERS).save(path, exif=noted(6))
    with Image.open(path) as image:
        assert np.array_equal(ClipPixels(24, 24)(image), ClipPixels(24, 24)(read_frame(path)))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"])
def test_what_is_no_exif_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(CORNERS).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(bytes_of(read_frame(tmp_path / "x.png")), CORNERS)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(CORNERS).save(tmp_path / "x.png", exif=noted(orientation))
    assert np.array_equal(bytes_of(read_frame(tmp_path / "x.png")), CORNERS)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x.png", (RAMP * 257).astype(np.uint16)),
        ("x.tif", (RAMP * 257).astype(np.uint16)),
        ("x.tif", (RAMP * 257).astype(">u2")),
        ("x.tif", (RAMP << 8).astype(np.uint16)),
        ("x.tif", (RAMP * 257).astype(np.int32)),
        ("x.tif", RAMP.astype(np.int32)),
        ("x.tif", (RAMP / 255).astype(np.float32)),
    ],
    ids=["16 png", "16 tif", "16 big-endian", "8 shifted", "32", "32 of 8", "float"],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_deep_grey_is_scaled_and_not_clipped(
    tmp_path: Path, name: str, values: np.ndarray, orientation: int
) -> None:
    Image.fromarray(values).save(tmp_path / name, exif=noted(orientation))
    expected = np.rot90(RAMP, -1) if orientation == 6 else RAMP
    found = bytes_of(read_frame(tmp_path / name))
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_a_dark_picture_of_16_bits_stays_dark(tmp_path: Path, suffix: str) -> None:
    """All of its numbers would fit 8 bits, and the file says that they are 16."""
    for factor, expected in ((1, 0 * RAMP), (257, RAMP)):
        Image.fromarray((RAMP * factor).astype(np.uint16)).save(tmp_path / f"x.{suffix}")
        assert np.array_equal(bytes_of(read_frame(tmp_path / f"x.{suffix}"))[..., 0], expected)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        ("jpg", {"xmp": XMP.encode()}),
        ("webp", {"xmp": XMP.encode()}),
        ("tif", {"tiffinfo": {700: XMP.encode()}}),
    ],
)
def test_a_turn_that_xmp_alone_asks_for(tmp_path: Path, suffix: str, how: dict[str, object]) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(CORNERS).save(path, **how)
    assert read_frame(path).size == image_size(path) == probe(path).size == (24, 40)


@pytest.mark.parametrize(
    "values",
    [np.float32([[0, 1.01]]), np.float32([[-0.1, 1]]), np.float32([[0, 255]]), np.float32([[np.nan, 1]]),
     np.float32([[np.inf, 0]]), np.int32([[-1, 5]]), np.int32([[0, 65536]])],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("coarse", [False, True])
def test_values_of_an_unknown_range_are_refused(tmp_path: Path, values: np.ndarray, coarse: bool) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: grey values from .* allowed: .*save it with 8 bits"):
        read_frame(tmp_path / "x.tif", coarse)


def transparent(kind: str) -> Image.Image:
    """Red on its left half, nothing on its right one."""
    image = Image.new("RGBA", (8, 4), (250, 0, 0, 255))
    image.paste((0, 0, 250, 0), (4, 0, 8, 4))
    if kind == "LA":
        return image.convert("LA")
    if kind == "P":
        palette = Image.new("P", (8, 4), 0)
        palette.putpalette([250, 0, 0, 0, 0, 250])
        palette.paste(1, (4, 0, 8, 4))
        palette.info["transparency"] = 1
        return palette
    return image


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white_and_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    transparent(kind).save(tmp_path / "x.png")
    found = bytes_of(read_frame(tmp_path / "x.png"))
    assert (found[:, 4:] == 255).all()
    assert (found[:, :4] != 255).any()
    read_frame(tmp_path / "x.png")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'x.png'}: has transparent parts; they are shown on white"
    ]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(CORNERS).convert("RGBA").save(tmp_path / "x.png")
    assert np.array_equal(bytes_of(read_frame(tmp_path / "x.png")), CORNERS)
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_picture_is_taken_and_said(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], **options)
    with caplog.at_level(logging.WARNING):
        assert read_frame(tmp_path / f"x.{suffix}").getpixel((0, 0)) == (255, 0, 0)
    assert "holds several pictures; the first is taken" in caplog.text


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "LAB", "P"])
def test_other_colour_spaces_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (6, 4), 1).save(tmp_path / "x.tif")
    found = read_frame(tmp_path / "x.tif")
    assert (found.mode, found.size) == ("RGB", (6, 4))


def test_an_rgb_frame_keeps_its_bytes() -> None:
    stream = io.BytesIO()
    Image.effect_noise((40, 24), 90).convert("RGB").save(stream, "JPEG")
    with Image.open(stream) as image:
        assert bytes_of(to_rgb(image, "x")).tobytes() == bytes_of(image).tobytes()


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(UserError, match=r"x\.heic: .*HEIC or RAW.*save it as JPEG or PNG"):
        read_frame(tmp_path / "x.heic")
    assert image_size(tmp_path / "x.heic") is None
