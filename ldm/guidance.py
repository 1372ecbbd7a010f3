"""Classifier-free guidance, both halves: what training drops, and how sampling combines the predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    text_scale: float | Float[Tensor, "b 1 1 1"],
    image_scale: float | Float[Tensor, "b 1 1 1"],
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


# The three predictions, in the order in which they are run: e(I, T), e(I, 0), e(0, 0).
FULL, IMAGE_ONLY, NULL = range(3)


ROUNDING = 1 + 1e-6  # schedulers round their levels in different ways


class Interval(NamedTuple):
    """Noise levels low < sigma <= high (Kynkaanniemi et al. 2024, section 3); all of them by default."""

    low: float = 0.0
    high: float = math.inf

    @classmethod
    def of(cls, ends: Sequence[float] | None) -> Interval:
        """From its two ends; of none, all levels."""
        return cls(*ends) if ends else cls()

    def holds(self, sigma: float) -> bool:
        """Whether a noise level lies in it; one that is an end, to the rounding of 32 bits, is that end."""
        return self.low * ROUNDING < sigma <= self.high * ROUNDING


ALWAYS = Interval()


@dataclass(frozen=True)
class Guidance:
    """The scales of a drawing, and the noise levels at which each acts; elsewhere it is 1: no guidance.

    `text` is s_T and `image` is s_I of `guide`.
    """

    text: float = 7.5
    image: float = 1.5
    text_interval: Interval = ALWAYS
    image_interval: Interval = ALWAYS

    def at(self, sigma: float) -> tuple[float, float]:
        """s_T and s_I at a noise level sigma = sqrt((1 - alpha) / alpha)."""
        return (
            self.text if self.text_interval.holds(sigma) else 1.0,
            self.image if self.image_interval.holds(sigma) else 1.0,
        )


def rows_of(text_scale: float, image_scale: float) -> tuple[int, ...]:
    """Which of the three predictions have a weight other than zero in `guide`, and so must be run.

    The weights are s_T of e(I, T), s_I - s_T of e(I, 0) and 1 - s_I of e(0, 0).
    """
    weights = (text_scale, image_scale - text_scale, 1 - image_scale)
    return tuple(row for row, weight in enumerate(weights) if weight != 0)


def combine(
    predicted: Sequence[Float[Tensor, "b c h w"]], text_scale: float, image_scale: float
) -> Float[Tensor, "b c h w"]:
    """`guide` on the predictions that `rows_of` names, in its order; equal to it up to the sum's rounding."""
    if len(predicted) == 3:
        full, image_only, null = predicted
        return guide(full, image_only, null, text_scale, image_scale)
    if len(predicted) == 1:
        return predicted[0]
    # Two weights that add up to 1.
    first, base = predicted
    return base + (text_scale if text_scale else image_scale) * (first - base)
