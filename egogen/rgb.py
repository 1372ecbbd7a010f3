"""Any picture as upright RGB of 8 bits a channel: what both stages see. An RGB frame keeps its bytes."""

from __future__ import annotations

import logging
import struct
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from egogen.errors import UserError

# What an EXIF orientation asks for; 1, and numbers that are none, ask for nothing.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
# What Pillow raises for an EXIF block that is none.
NO_EXIF = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error)
DEEP = ("PNG", "PPM")  # whose whole numbers Pillow scales to 16 bits, or has of so many
PREVIEWS = "MPO"  # a camera's photo with smaller copies of itself
log = logging.getLogger(__name__)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A picture as both stages see it (F-DA-09).

    It is turned as its camera noted (EXIF). Transparent parts are shown on white, and of an animation or a
    file with several pages the first picture is taken; both are said. Whole numbers up to 65535 are 16 bits
    where any is above 255, fractions go from 0 to 1.

    Args:
        image: as it was opened.
        name: for messages.

    Raises:
        UserError: it has values outside these ranges.
    """
    if getattr(image, "is_animated", False) and image.format != PREVIEWS:
        say(f"{name}: holds several pictures; the first is taken")
    image.load()  # a TIFF is turned by this, and forgets its orientation
    turn = TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    rgb = on_white(eight_bits(upright, name, image.format in DEEP), name).convert("RGB")
    rgb.info = {}  # an orientation that was obeyed is not written again
    return rgb


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that `to_rgb` would give, by the header of a picture that is just opened."""
    width, height = image.size
    # A TIFF's size is upright already, but where its orientation stands in XMP alone.
    is_upright = isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.Orientation) in SIDEWAYS
    turned = not is_upright and orientation(image) in SIDEWAYS
    return (height, width) if turned else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none that can be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except NO_EXIF:
        return 1
    return found if isinstance(found, int) else 1


def eight_bits(image: Image.Image, name: str, is_deep: bool) -> Image.Image:
    """Scales grey of more than 8 bits, which the library would clip to white or cut to black.

    Args:
        image: of any mode.
        name: for messages.
        is_deep: whole numbers are 16 bits for sure; else where any is above 255.

    Raises:
        UserError: the range of its values is none that is known.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # nor if one is not a number
            raise out_of_range(name, low, high, "fractions from 0 to 1")
        return Image.fromarray((values * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    if not 0 <= low <= high <= 0xFFFF:
        raise out_of_range(name, low, high, "whole numbers from 0 to 65535")
    shift = 8 if is_deep or image.mode != "I" or high > 0xFF else 0
    return Image.fromarray((values >> shift).astype(np.uint8))


def out_of_range(name: str, low: np.generic, high: np.generic, allowed: str) -> UserError:
    """Says which values a picture has, and what to do."""
    return UserError(f"{name}: grey values from {low:g} to {high:g}, allowed: {allowed}; save it with 8 bits")


def on_white(image: Image.Image, name: str) -> Image.Image:
    """Lays a picture with transparent parts on white."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 0xFF:
        return layer
    say(f"{name}: has transparent parts; they are shown on white")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


@lru_cache(4096)
def say(line: str) -> None:
    """Warns, once for each picture: data sets are read again and again."""
    log.warning("%s", line)
