"""Guidance scales as an input of the UNet: the layer that reads them, its limits, and baking a pair in."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor, nn

from egogen.errors import UserError, check
from ldm.networks.distilled import (
    DISTILLED,
    GUIDANCE_IN_CONFIG,
    IN_CONFIG,
    SCALE_WIDTH,
    Distilled,
    read_distilled,
)

SCALED_BY = 1000  # as timesteps are, so that the same frequencies tell them apart (Luo et al. 2023)


def takes_scales(unet: UNet2DConditionModel) -> bool:
    """Whether a UNet takes the embedding of two guidance scales as `timestep_cond`."""
    return unet.config.time_cond_proj_dim is not None


def state_distilled(unet: UNet2DConditionModel, stated: Distilled) -> None:
    """Notes what `distilled_of` tells; it is saved with the UNet's configuration."""
    unet.register_to_config(**{IN_CONFIG: asdict(stated)})


def distilled_of(unet: UNet2DConditionModel, place: str = "unet") -> Distilled | None:
    """What a UNet was distilled for; None for one that was not.

    Raises:
        UserError: it takes scales, but nothing says which, or not as ours do.
    """
    stated, width = unet.config.get(IN_CONFIG), unet.config.time_cond_proj_dim
    if width is not None:
        check(f"{place}: time_cond_proj_dim", width, f"{2 * SCALE_WIDTH}", width == 2 * SCALE_WIDTH)
        if stated is None:
            raise UserError(
                f"{place}: takes guidance scales as an input, but does not state those it was trained for "
                f"({IN_CONFIG} in config.json, {DISTILLED} in a single file), as those of ldm.distill do"
            )
    if stated is None:
        return None
    found = read_distilled(stated, place)
    if found.baked != (width is None):
        layer = "has no layer that reads guidance scales" if width is None else "reads guidance scales"
        raise UserError(f"{place}: {IN_CONFIG} says baked={found.baked}, but its UNet {layer}")
    return found


def embed_scales(scales: Float[Tensor, "b 2"]) -> Float[Tensor, "b 512"]:
    """The input e(w) of P: sines and cosines of 1000 w_T, then those of 1000 w_I (Luo et al. 2023, 4.2)."""
    halves = [get_timestep_embedding(SCALED_BY * each, SCALE_WIDTH) for each in scales.float().unbind(dim=1)]
    return torch.cat(halves, dim=1)  # b 512


def add_scale_layer(unet: UNet2DConditionModel) -> None:
    """Gives a UNet the bias-free layer P for scales, at zero: it predicts what it did, whatever they are.

    diffusers adds P e(w) to the features of the timestep, before the first layer of their network.
    """
    if takes_scales(unet):
        return
    embedding = unet.time_embedding
    like = embedding.linear_1.weight
    layer = nn.Linear(2 * SCALE_WIDTH, embedding.linear_1.in_features, bias=False).to(like)
    nn.init.zeros_(layer.weight)
    embedding.cond_proj = layer
    unet.register_to_config(time_cond_proj_dim=2 * SCALE_WIDTH)


@torch.no_grad()
def bake(unet: UNet2DConditionModel, text: float, image: float) -> None:
    """Folds one pair of scales into the first bias: b_1 + W_1 P e(w). The result is a plain UNet.

    Args:
        unet: takes scales; changed in place.
        text: w_T.
        image: w_I.

    Raises:
        UserError: it takes no scales, or was not trained for these.
    """
    stated = distilled_of(unet)
    if stated is None or not takes_scales(unet):
        baked = "" if stated is None else f": w_T {stated.text[0]:g} and w_I {stated.image[0]:g} are baked in"
        raise UserError(f"bake: this checkpoint takes no guidance scales{baked}; give one of ldm.distill")
    stated.check_scales(text, image, ("w_T", "w_I"))
    embedding = unet.time_embedding
    first, layer = embedding.linear_1, embedding.cond_proj
    scales = torch.tensor([[text, image]], device=first.weight.device)
    features = embed_scales(scales).double() @ layer.weight.double().T  # 1 c
    first.bias.copy_(first.bias.double() + (features @ first.weight.double().T)[0])
    embedding.cond_proj = None
    unet.register_to_config(time_cond_proj_dim=None, **{GUIDANCE_IN_CONFIG: [text, image]})
    state_distilled(unet, replace(stated, text=[text, text], image=[image, image], baked=True))
