"""Uploaded photos: bytes of strangers become a picture, or a message that says what to do."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from egogen.errors import UserError
from egogen.frames import BROKEN
from egogen.rgb import to_rgb

# What is decoded of strangers' files; Pillow knows more kinds, some of which run other programs.
SUFFIXES = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp",
    "TIFF": ".tif", "AVIF": ".avif",
}  # fmt: skip
VIEW = 1024  # longest side of what the page shows
MIN_SIDE = 8
MOST_RATIO = 16  # a longer strip would be drawn as next to nothing
ADVICE = "choose a JPEG, PNG or WebP picture"


class Limits(NamedTuple):
    """Of an upload."""

    mb: float
    megapixels: float

    @property
    def bytes(self) -> int:
        """The most that is read."""
        return int(self.mb * 1e6)


class Photo(NamedTuple):
    """A photo that was read once: its upright size, a small copy for the page, actions that fit it."""

    width: int
    height: int
    view: bytes
    actions: tuple[str, ...]
    name: str
    suffix: str


def read_photo(
    content: bytes, limits: Limits, actions: tuple[str, ...] = (), name: str = "your photo"
) -> Photo:
    """Decodes an upload whole, turned as its camera noted, so that what is kept is known to be a picture.

    Raises:
        UserError: it is too large, or no picture that is read.
    """
    upright, kind = decode_photo(content, limits)
    width, height = upright.size
    if max(width, height) > VIEW:
        upright.thumbnail((VIEW, VIEW), Image.Resampling.LANCZOS)
    shown = io.BytesIO()
    upright.save(shown, "PNG" if max(width, height) <= VIEW // 2 else "JPEG", quality=90)
    return Photo(width, height, shown.getvalue(), actions, name, SUFFIXES[kind])


def decode_photo(content: bytes, limits: Limits) -> tuple[Image.Image, str]:
    """An upload as upright RGB, and its kind.

    Raises:
        UserError: as for `read_photo`.
    """
    if not content:
        raise UserError(f"the upload is empty; {ADVICE}")
    if len(content) > limits.bytes:
        raise too_large(limits)
    Image.init()  # knows all kinds from now on; MPO is opened as JPEG
    try:
        with Image.open(
            io.BytesIO(content), formats=[kind for kind in SUFFIXES if kind in Image.OPEN]
        ) as image:
            check_size(image.width, image.height, limits)
            return to_rgb(image, "photo"), f"{image.format}"
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"the picture states more pixels than can be real; {smaller(limits)}") from None
    except UnidentifiedImageError:
        raise UserError(
            f"the upload is no picture that is read here (HEIC, RAW, SVG and PDF are not); {ADVICE}"
        ) from None
    except BROKEN as error:
        raise UserError(f"the picture cannot be read ({error}); is it cut off? Upload it again") from None


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuses by the header, before a pixel is decoded, what would fill the memory, or is next to nothing."""
    if width * height > limits.megapixels * 1e6:
        raise UserError(f"the picture has {width} x {height} pixels; {smaller(limits)}")
    small, large = sorted((width, height))
    if small < MIN_SIDE or large > MOST_RATIO * small:
        raise UserError(
            f"the picture has {width} x {height} pixels; expected at least {MIN_SIDE} along each side, and "
            f"no side {MOST_RATIO} times the other"
        )


def smaller(limits: Limits) -> str:
    """What to do about too many pixels."""
    return f"allowed are {limits.megapixels:g} megapixels; make it smaller"


def too_large(limits: Limits) -> UserError:
    """What to tell of an upload with too many bytes."""
    return UserError(f"the upload is larger than {limits.mb:g} MB; make the picture smaller")
