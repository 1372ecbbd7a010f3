"""Image files of an evaluation: checked to their last byte, decoded to RGB in [0, 1]."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from egogen.errors import UserError
from egogen.files import regular
from egogen.frames import BROKEN
from egogen.packed_frames import FrameFile
from egogen.rgb import to_rgb, upright_size


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def near(self, other: Size, tolerance: int) -> bool:
        """Whether both sides differ by at most `tolerance` pixels."""
        return max(abs(self.height - other.height), abs(self.width - other.width)) <= tolerance


class Header(NamedTuple):
    """What a check of an image file learned."""

    size: Size
    format: str
    sha256: str


def check_image(path: FrameFile) -> Header:
    """Reads an image file to its end.

    JPEGs are decoded at an eighth of their size: as sharp an eye for a truncated file, at less cost.

    Raises:
        UserError: the file is broken or not RGB. The published code scored grey frames wrongly, by
            broadcasting (F-EV-02).
    """
    if isinstance(path, Path):
        regular(path)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width, height = upright_size(image)
            mode, form = image.mode, image.format or "unknown"
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except BROKEN as error:
        raise UserError(f"{path}: not a whole image ({error}); make this frame again") from None
    if mode != "RGB":
        raise UserError(f"{path}: a {mode} image of {form} format, expected RGB; save it with three channels")
    return Header(Size(height, width), form, hashlib.sha256(data).hexdigest())


def read_image(path: FrameFile) -> Float[Tensor, "3 h w"]:
    """Decodes an RGB image to [0, 1]; a `UserError` names one that cannot be read."""
    return read_pixels(path).float() / 255


def read_pixels(path: FrameFile) -> UInt8[Tensor, "3 h w"]:
    """Decodes an RGB image; a `UserError` names one that cannot be read."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            pixels = np.array(to_rgb(image, f"{path}"))  # [h, w, 3]
    except BROKEN as error:
        raise UserError(f"{path}: not a whole image ({error}); make this frame again") from None
    return rearrange(torch.from_numpy(pixels), "h w c -> c h w")
