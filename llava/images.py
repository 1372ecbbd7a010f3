"""Frames for CLIP: open, check before work begins, prepare as `egogen.clip_pixels` says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.clip_pixels import ClipPixels, read_clip_pixels
from egogen.errors import UserError

THREADS = 8


def open_image(path: Path) -> Image.Image:
    """Opens and decodes an image as RGB.

    Raises:
        UserError: missing, or not a whole image file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"{path}: the image cannot be read ({reason}); is it cut off? copy it again"
        ) from None


def check_images(paths: Iterable[Path]) -> None:
    """Decodes every image once, so that a broken one is found before hours of work and not after.

    Raises:
        UserError: names the first broken image and how many there are.
    """

    def problem(path: Path) -> str | None:
        try:
            open_image(path)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        problems = [found for found in pool.map(problem, dict.fromkeys(paths)) if found]
    if problems:
        more = f" (and {len(problems) - 1} more images)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


def load_image_processor(folder: Path, vision: CLIPVisionConfig) -> CLIPImageProcessorPil:
    """The image processor of a folder or, without a preprocessor_config.json, CLIP's usual one.

    It carries the settings, and saves them; `pixels` applies them.

    Raises:
        UserError: preprocessor_config.json cannot be read, or crops to another size than the vision tower's.
    """
    side = vision.image_size
    assert isinstance(side, int)
    made = read_clip_pixels(folder, side)
    return CLIPImageProcessorPil(
        size={"shortest_edge": made.edge},
        crop_size={"height": made.side, "width": made.side},
        image_mean=list(made.mean),
        image_std=list(made.std),
        rescale_factor=made.factor,
        resample=made.resample,
    )


def pixels(images: Sequence[Image.Image], processor: CLIPImageProcessorPil) -> Float[Tensor, "b 3 h w"]:
    """CLIP's input: normalised by CLIP's mean and standard deviation."""
    prepare = ClipPixels.parse(processor.to_dict(), "image processor")
    return torch.from_numpy(np.stack([prepare(image) for image in images]))


def no_pixels(processor: CLIPImageProcessorPil) -> Float[Tensor, "3 h w"]:
    """What stands in for the image of a record without one."""
    return torch.zeros(3, processor.crop_size["height"], processor.crop_size["width"])
