"""Turns patches, or CLIP's input, into image features on the device of the batch: compact and online stores.

The loader's workers only read patches, or prepare frames; CLIP and the projector are work for the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from egogen.clip_pixels import FEATURE_LAYER, ClipPixels, read_clip_pixels
from egogen.errors import UserError
from egogen.features import IMAGE_TOKENS
from egogen.features.projector import Projector, read_projector
from egogen.layout import clip_folder, projector_path
from egogen.manifest import checkpoint_hash, file_hash

if TYPE_CHECKING:
    from transformers import CLIPVisionModel  # seconds that only online stores are worth

Batch = dict[str, Any]
PATCHES, PIXELS, VISION, IMAGE = "clip_patches", "clip_pixels", "vision", "vllm_image"
# The rest of a CLIP, in folders that hold a whole one.
OTHER_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


@dataclass(frozen=True)
class VisionFiles:
    """Where a projector lies, and a CLIP beside it if image features are computed from frames.

    Two with the same content are equal: it is loaded once.
    """

    digest: str
    online: bool
    folder: Path = field(compare=False)

    @classmethod
    def of(cls, folder: Path, online: bool) -> VisionFiles:
        """Reads through the files of a folder of image features.

        Raises:
            UserError: the projector or CLIP is missing.
        """
        projector = projector_path(folder)
        if not projector.is_file():
            raise UserError(f"{projector}: missing; make the store again, or copy the projector here")
        digest = file_hash(projector) + (checkpoint_hash(clip_folder(folder)) if online else "")
        return cls(digest, online, folder)

    def patch_width(self, width: int) -> int:
        """Width of patches.

        Raises:
            UserError: the projector gives features of another width than the one given.
        """
        path = projector_path(self.folder)
        found, patch_width = read_projector(path).weight.shape
        if found != width:
            raise UserError(
                f"{path}: gives image features of width {found}, model.architecture.llm_width is {width}; "
                "set it, or take the projector of the checkpoint that described this split"
            )
        return patch_width

    def preparation(self) -> ClipPixels:
        """CLIP's preparation of frames.

        Raises:
            UserError: its settings cannot be read, or it cuts frames into another number of patches.
        """
        from transformers import CLIPVisionConfig

        path = clip_folder(self.folder) / "config.json"
        try:
            config = CLIPVisionConfig.from_pretrained(path.parent)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not the settings of a CLIP ({error})") from None
        side, patch = config.image_size, config.patch_size
        assert isinstance(side, int)
        assert isinstance(patch, int)
        if (side // patch) ** 2 != IMAGE_TOKENS:
            raise UserError(
                f"{path}: {side} x {side} pixels in patches of {patch} x {patch} are {(side // patch) ** 2} "
                f"patches, expected {IMAGE_TOKENS}"
            )
        return read_clip_pixels(path.parent, side)


class Vision(nn.Module):
    """Stage 1's projector, and its CLIP in front if image features are computed from frames; frozen."""

    weight: Tensor
    bias: Tensor

    def __init__(self, projector: Projector, clip: CLIPVisionModel | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("weight", torch.from_numpy(projector.weight))
        self.register_buffer("bias", torch.from_numpy(projector.bias))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, seen: Tensor) -> Float[Tensor, "b p d"]:
        """Image features of patches [b, p, v], or of CLIP's input [b, 3, s, s] if there is a CLIP.

        CLIP runs in float16 on a GPU and in 32 bits elsewhere, as `llava.describe` does by default.
        """
        self.to(seen.device)
        with torch.autocast(seen.device.type, enabled=False):
            if self.clip is not None:
                dtype = torch.float16 if seen.is_cuda else torch.float32
                nn.Module.to(self.clip, dtype)
                states = self.clip(seen.to(dtype), output_hidden_states=True).hidden_states
                seen = states[FEATURE_LAYER][:, 1:]  # b p v
            return functional.linear(seen.float(), self.weight, self.bias)


@cache
def load_vision(files: VisionFiles) -> Vision:
    """Loads what image features are computed with, once a process.

    Raises:
        UserError: a file is damaged, or CLIP and projector do not belong together.
    """
    projector = read_projector(projector_path(files.folder))
    if not files.online:
        return Vision(projector)
    from ldm.checkpoints.diffusers_folder import load_part

    folder = clip_folder(files.folder)
    clip: CLIPVisionModel = load_part(folder.parent, folder.name, load_clip, dtype=torch.float32)
    if clip.config.hidden_size != projector.weight.shape[1]:
        raise UserError(
            f"{files.folder}: CLIP's patches are {clip.config.hidden_size} wide, the projector takes "
            f"{projector.weight.shape[1]}; both must be those of stage 1"
        )
    return Vision(projector, clip)


def load_clip(folder: Path, **options: Any) -> tuple[CLIPVisionModel, dict[str, object]]:  # noqa: ANN401
    """A vision tower, from a folder of its own or of a whole CLIP, and what is known of its tensors."""
    from transformers import CLIPVisionModel
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # `load_part` looks at the tensors, and names the wrong ones
    try:
        loaded: Any = CLIPVisionModel.from_pretrained(folder, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    unknown = [name for name in info["unexpected_keys"] if not name.startswith(OTHER_HALF)]
    return model, {**info, "unexpected_keys": unknown}


def complete(batch: Batch, visions: Mapping[str, VisionFiles]) -> Batch:
    """Puts image features in the place of what they are computed from; other batches stay as they are.

    Args:
        batch: see `ldm.data.pairs.Sample`, on its device.
        visions: by digest, all that samples of the batch may name.
    """
    seen = batch.get(PATCHES, batch.get(PIXELS))
    if seen is None:
        return batch
    names = batch[VISION]
    places = {name: [row for row, other in enumerate(names) if other == name] for name in names}
    parts = [load_vision(visions[name])(seen[rows]) for name, rows in places.items()]  # b p d, each
    order = torch.tensor([row for rows in places.values() for row in rows])
    features = parts[0] if len(parts) == 1 else torch.cat(parts)[order.argsort()]
    rest = {key: value for key, value in batch.items() if key not in (PATCHES, PIXELS, VISION)}
    return {**rest, IMAGE: features}
