"""Proximal guidance (Han et al. 2024): small differences between two predictions are noise, and go."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ldm.config.baselines import ProxConfig


def find_threshold(delta: Float[Tensor, "k b c h w"], quantile: float) -> Float[Tensor, "b 1 1 1"]:
    """Finds lambda of each of b pairs: a quantile of |delta| over its k branches; below 0, minus lambda."""
    if quantile <= 0:
        return delta.new_full((delta.shape[1], 1, 1, 1), -quantile)
    found = torch.quantile(rearrange(delta.abs(), "k b c h w -> b (k c h w)"), quantile, dim=1)
    return found[:, None, None, None]


def shrink(
    delta: Float[Tensor, "k b c h w"], threshold: Float[Tensor, "b 1 1 1"], settings: ProxConfig
) -> Float[Tensor, "k b c h w"]:
    """The proximal operator that `settings.prox` names.

    `l0` is soft thresholding as released, the paper's hard one by `l0_threshold` (F-BL-03). `l1` as released
    subtracts lambda once more, the negative side after the positive one: it is neither odd nor monotone
    (F-BL-04).
    """
    if settings.prox == "none":
        return delta
    if settings.prox == "l0" and settings.l0_threshold == "hard":
        return torch.where(delta.abs() > threshold, delta, 0.0)  # prox of lambda^2 / 2 |.|_0
    soft = delta - delta.clamp(-threshold, threshold)  # prox of lambda |.|_1
    if settings.prox == "l0":
        return soft
    lowered = torch.where(soft > 0, soft - threshold, soft)
    return torch.where(lowered < 0, lowered + threshold, lowered)


def edited_region(
    shrunk: Float[Tensor, "k b c h w"], threshold: Float[Tensor, "b 1 1 1"], radius: int
) -> Bool[Tensor, "k b c h w"]:
    """Where thresholded guidance still exceeds lambda, per channel, grown by a radius in latent cells."""
    mask = rearrange(shrunk.abs() > threshold, "k b c h w -> (k b) c h w").to(shrunk.dtype)
    grown = functional.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius)
    return rearrange(grown, "(k b) c h w -> k b c h w", k=len(shrunk)) > 0
