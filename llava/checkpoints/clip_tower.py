"""Which CLIP a checkpoint sees with: the folder it names, the hub's, or its own weights; and its input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from huggingface_hub import snapshot_download
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.annotations import check_object
from egogen.clip_pixels import ClipPixels, read_clip_pixels
from egogen.errors import UserError, reason
from egogen.files import read_json
from egogen.walks import shown
from llava.checkpoints.config_json import infer_vision
from llava.checkpoints.weights import OF_CLIP, VISION, read_shapes

log = logging.getLogger(__name__)

HUB_FILES = ["config.json", "preprocessor_config.json", "pytorch_model.bin"]


class VisionTower(NamedTuple):
    """A vision tower: its settings, its weights by our names without their values, and the folder of both.

    The folder is a CLIP's, which also says how to crop, or that of the checkpoint itself.
    """

    config: CLIPVisionConfig
    shapes: Mapping[str, Tensor]
    folder: Path


def choose_vision_tower(
    name: str, folder: Path, own: Mapping[str, Tensor], override: Path | None = None
) -> VisionTower:
    """The published rule: CLIP is loaded anew from the name in `mm_vision_tower`, not from the checkpoint.

    Weights inside the checkpoint passed through training precision; CLIP's own did not. They serve only where
    no CLIP is at hand (F-S1-06: the published code ignores them and stops).

    Args:
        name: `mm_vision_tower`: a folder relative to the checkpoint's `folder` or its parent, else a hub id.
        folder: the checkpoint.
        own: its vision weights by our names, values not needed; may be empty.
        override: a CLIP folder, or a name such as `openai/clip-vit-large-patch14`, to take instead.

    Raises:
        UserError: there is no CLIP to be had.
    """
    if override is not None and not has_clip(override):
        if override.is_absolute() or len(override.parts) != 2 or override.exists():
            raise UserError(f"{override}: no CLIP here; expected a folder with config.json and weights")
        # A hub id, as the published scripts give it.
        name, override, own = str(override), None, {}
    clip = override or find_clip(name, folder)
    if clip is not None:
        log.info("vision tower: CLIP from %s%s", clip, " (not the checkpoint's copy)" if own else "")
        return read_clip(clip)
    if own:
        log.info("vision tower: the checkpoint's own weights; no CLIP named %r is at hand", name)
        return VisionTower(infer_vision(own, folder), own, folder)
    log.info("vision tower: %s from the Hugging Face hub", name)
    return read_clip(download(name, folder, local_only=False))


def find_clip(name: str, folder: Path) -> Path | None:
    """The CLIP folder of that name in or beside the checkpoint, else in Hugging Face's cache, else None.

    Where the checkpoint's path is a link, beside what it leads to as well.
    """
    if not name:
        return None
    for base in (folder, folder.parent, folder.resolve().parent):
        if has_clip(base / name):
            return base / name
    if name.count("/") != 1:
        return None
    try:
        cached = download(name, folder, local_only=True)
    except UserError:
        return None
    return cached if has_clip(cached) else None


def has_clip(folder: Path) -> bool:
    """Whether a folder holds settings and weights; a cache may hold the former alone."""
    weights = shown((*folder.glob("*.bin*"), *folder.glob("*.safetensors*")))
    return (folder / "config.json").is_file() and bool(weights)


def download(name: str, folder: Path, *, local_only: bool) -> Path:
    """The folder of a CLIP from the hub.

    Raises:
        UserError: it is not in the cache and cannot be fetched.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=local_only))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'config.json'}: mm_vision_tower {name!r} is neither a folder beside the checkpoint "
            f"nor on the Hugging Face hub ({reason(error)}); copy CLIP to {folder / name}, or fetch it by "
            "bash scripts/download_weights.sh and name it by --vision-tower"
        ) from None


def read_clip(folder: Path) -> VisionTower:
    """Reads a CLIP folder; of a whole CLIP, the vision half.

    Raises:
        UserError: config.json or the weights cannot be read.
    """
    raw = check_object(read_json(folder / "config.json"), f"{folder / 'config.json'}", "CLIP's settings")
    # Of other kinds transformers only warns, and takes CLIP's defaults for what they do not name.
    if (kind := raw.get("model_type")) not in ("clip", "clip_vision_model"):
        raise UserError(f"{folder / 'config.json'}: model_type is {kind!r}, expected 'clip'")
    try:
        config = CLIPVisionConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: not the settings of a CLIP ({error})") from None
    shapes = read_shapes(folder, OF_CLIP)
    if not any(name.startswith(VISION) for name in shapes):
        raise UserError(f"{folder}: its weights are not those of a CLIP vision tower")
    return VisionTower(config, shapes, folder)


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
