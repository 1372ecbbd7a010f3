"""CLIP image similarity: how alike CLIP finds a generated frame and its target. Published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from egogen.clip_pixels import CLIP_MEAN, CLIP_STD
from egogen.errors import UserError, reason
from egogen.torchscript import SETTINGS, is_torchscript, read_torchscript
from ldm.metrics.accumulators import cosine, features, similarity
from ldm.metrics.frames.resize import cover, normalize, resize
from ldm.metrics.metric import COSINE, Metric
from ldm.metrics.metric_names import Protocol
from ldm.metrics.networks.metric_weights import CLIP, FETCH, read_state, require

WHAT = "OpenAI CLIP"


def score(
    generated: Float[Tensor, "b 3 h1 w1"],
    reference: Float[Tensor, "b 3 h w"],
    network: nn.Module,
    protocol: Protocol = "published",
) -> Float[Tensor, " b"]:
    """Cosine between the image embeddings of each pair, in [-1, 1]; 1 for identical images.

    Frames in [0, 1]; `network` by `load`. Source: the published evaluation.
    """
    return cosine(embed(network, generated, protocol), embed(network, reference, protocol))


@torch.no_grad()
def embed(
    network: nn.Module, images: Float[Tensor, "b 3 h w"], protocol: Protocol = "published"
) -> Float[Tensor, "b d"]:
    """Image embeddings of unit length.

    Published: frames are squashed to a square, bicubic without antialiasing, so that values leave [0, 1].
    Corrected: as CLIP was trained, the shorter side resized with antialiasing and the middle cut out.
    """
    side: int = cast("Any", network).image_size[0]
    if protocol == "published":
        pixels = resize(images, side, side, "bicubic", antialias=False)
    else:
        pixels = cover(images, side, "bicubic", antialias=True).clamp(0, 1)
    return nn.functional.normalize(network(normalize(pixels, CLIP_MEAN, CLIP_STD)).float(), dim=-1)


def load(path: Path, device: torch.device) -> nn.Module:
    """The image tower of a published file, in 32 bits on weights of 16, as published.

    Raises:
        UserError: it is broken, or the file of another network.
    """
    # Takes seconds to import, so a wrong argument does not wait for it.
    from open_clip.model import build_model_from_openai_state_dict

    state = {name: value for name, value in read_archive(path).items() if name not in SETTINGS}
    require(state, ("visual.proj", "text_projection"), path, WHAT)
    try:
        model = build_model_from_openai_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path}: not the weights of {WHAT} ({reason(error)}); fetch it again by {FETCH}"
        ) from None
    return model.visual.float().eval().to(device)


def read_archive(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a published file, which is a TorchScript archive, or of a plain one.

    Raises:
        UserError: it is broken.
    """
    if not is_torchscript(path):
        return read_state(path)
    try:
        return read_torchscript(path)
    except UserError as error:
        raise UserError(f"{error}; fetch it again by {FETCH}") from None


METRIC = Metric(
    name="clip",
    title="CLIP",
    scale=COSINE,
    source="cosine of the image embeddings of OpenAI's ViT-L/14",
    libraries=("open_clip_torch",),
    open=lambda setting, _, memory: similarity(features(setting, memory, setting.network(CLIP, load), embed)),
    weights=lambda _: (CLIP,),
)
