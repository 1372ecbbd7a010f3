"""A diffusers pipeline of others as a baseline: loaded strictly and safely, given our frames and noise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from egogen.errors import UserError, reason
from egogen.features.weight_files import BROKEN
from ldm.baselines.pipeline_index import PipelineIndex
from ldm.checkpoints.diffusers_folder import load_part

log = logging.getLogger(__name__)
# Their lists of frames and texts are pairs; elsewhere a list may be several views for one frame, and frames
# are drawn one by one.
PAIRED = {
    "FluxKontextPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLImg2ImgPipeline",
}


class ForeignPipeline:
    """Draws by a stock pipeline.

    Args:
        pipeline: loaded; its call takes `image` and `prompt`.
        arguments: what its call is given besides.

    Attributes:
        blackened: frames so far that its safety checker has replaced.
        drawn: frames so far.
    """

    def __init__(self, pipeline: DiffusionPipeline, arguments: Mapping[str, object]) -> None:
        self.pipeline, self.arguments = pipeline, arguments
        pipeline.set_progress_bar_config(disable=True)
        self.name = type(pipeline).__name__
        self.is_random = "generator" in signature(type(pipeline).__call__).parameters
        self.blackened = self.drawn = 0

    @torch.no_grad()
    def draw(
        self, source: Float[Tensor, "b 3 r r"], prompts: Sequence[str], generators: Sequence[Generator]
    ) -> Float[Tensor, "b 3 h w"]:
        """Draws frames, in [-1, 1], from frames, a text and a generator each.

        Raises:
            UserError: the pipeline refuses an argument, or gives no pictures.
        """
        rows = zip(pictures(source), prompts, generators, strict=True)
        if self.name in PAIRED and len(prompts) > 1:
            images, texts, own = (list(column) for column in zip(*rows, strict=True))
            texted = {name for name in self.arguments if name.startswith(("negative_prompt", "prompt_"))}
            arguments = {
                name: [value] * len(texts) if name in texted and isinstance(value, str) else value
                for name, value in self.arguments.items()
            }
            made = [self.call(own, image=images, prompt=texts, **arguments)]
        else:
            made = [self.call(own, image=image, prompt=text, **self.arguments) for image, text, own in rows]
        return torch.cat(made).float() * 2 - 1

    def call(
        self,
        generator: Generator | list[Generator],
        **given: Any,  # noqa: ANN401 - as diffusers takes them
    ) -> Float[Tensor, "b 3 h w"]:
        """One call of the pipeline; pictures in [0, 1]."""
        if self.is_random:
            given["generator"] = generator
        try:
            made = self.pipeline(**given, output_type="pt")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"pipeline.arguments: {self.name} refuses them ({' '.join(reason(error).split())[:300]})"
            ) from None
        images = made.images
        if not (isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == 3):
            raise UserError(f"{self.name}: gives no pictures; draw with another pipeline")
        self.drawn += len(images)
        self.say_blackened(getattr(made, "nsfw_content_detected", None), given["prompt"])
        return images

    def say_blackened(self, flags: Sequence[bool] | None, prompts: str | Sequence[str]) -> None:
        """Tells of frames that are black because the pipeline's safety checker has judged them."""
        texts = [prompts] if isinstance(prompts, str) else prompts
        black = [text for text, flag in zip(texts, flags or [False] * len(texts), strict=True) if flag]
        self.blackened += len(black)
        if black:
            log.warning(
                "the safety checker of %s has made %d of %d frames black so far, now that of %r",
                self.name, self.blackened, self.drawn, black[0],
            )  # fmt: skip


def pictures(frames: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """Frames in [-1, 1] as pictures, which all pipelines take; those that were 8-bit are as they were."""
    values = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [
        Image.fromarray(np.ascontiguousarray(each))
        for each in rearrange(values, "b c h w -> b h w c").cpu().numpy()
    ]


def load_foreign(index: PipelineIndex, device: torch.device, dtype: torch.dtype) -> DiffusionPipeline:
    """Loads a pipeline from safetensors, each of its networks with all its tensors.

    Raises:
        UserError: a part or a tensor is missing, or a file is damaged or no safetensors.
    """
    networks: dict[str, Any] = {}
    taken = signature(index.kind.__init__).parameters
    for name, kind in index.components.items():
        if issubclass(kind, nn.Module) and name in taken:
            typed = {"dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype": dtype}
            networks[name] = load_part(
                index.folder, name, kind.from_pretrained, extras=True, use_safetensors=True, **typed
            ).eval()
    try:
        made = index.kind.from_pretrained(
            index.folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, **networks
        )
    except BROKEN as error:
        raise UserError(
            f"{index.folder}: cannot be loaded ({' '.join(reason(error).split())[:300]})"
        ) from None
    return made.to(device)
