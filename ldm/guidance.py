"""Classifier-free guidance, both halves: what training drops, and how sampling combines the predictions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldm.diffusion.choices import DROP_EACH


class Drop(NamedTuple):
    """Which samples of a batch train without their text, and which without their source frame."""

    text: Bool[Tensor, " b"]
    image: Bool[Tensor, " b"]


def draw_drop(r: Float[Tensor, " b"], each: float = DROP_EACH) -> Drop:
    """Turns one uniform number a sample into what is dropped.

    r < each: text; each <= r < 2 each: text and image; 2 each <= r < 3 each: image.
    """
    return Drop(text=r < 2 * each, image=(r >= each) & (r < 3 * each))


def build_context(
    text: Float[Tensor, "b t ctx"],
    null_text: Float[Tensor, "1 t ctx"],
    vllm: Float[Tensor, "b v ctx"] | None,
    drop_text: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, "b tv ctx"]:
    """C = [psi(R), sigma(H_i), pi(mu(H_t))] on the token axis, for training and sampling alike.

    Args:
        text: CLIP embedding psi(R) of the description.
        null_text: CLIP embedding of "".
        vllm: the conditioner's tokens; None makes an InstructPix2Pix context.
        drop_text: samples whose text becomes `null_text` and whose projected VLLM tokens become zeros.
    """
    if drop_text is not None:
        mask = drop_text[:, None, None]
        text = torch.where(mask, null_text, text)
        vllm = None if vllm is None else torch.where(mask, torch.zeros_like(vllm), vllm)
    return text if vllm is None else torch.cat([text, vllm], dim=1)


def guide(
    full: Float[Tensor, "b c h w"],
    image_only: Float[Tensor, "b c h w"],
    null: Float[Tensor, "b c h w"],
    text_scale: float,
    image_scale: float,
) -> Float[Tensor, "b c h w"]:
    """e(0,0) + s_T [e(I,T) - e(I,0)] + s_I [e(I,0) - e(0,0)] (InstructPix2Pix, equation 3).

    Args:
        full: prediction with source frame and text, e(I, T).
        image_only: prediction with the source frame alone, e(I, 0).
        null: prediction with neither, e(0, 0).
        text_scale: s_T.
        image_scale: s_I.
    """
    return null + text_scale * (full - image_only) + image_scale * (image_only - null)
