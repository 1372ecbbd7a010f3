"""From noisy latents to the guided noise prediction: which rows the UNet runs, and how they are combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from ldm.guidance import FULL, NULL, Guidance, combine, rows_of
from ldm.networks.attention import FixedRows, fixed_context, is_plain
from ldm.networks.scales import distilled_of, embed_scales, takes_scales


class Denoiser:
    """e~(x_t, t) of one drawing; `denoiser` makes it.

    A row is a batch of frames under one condition: (I, T), (I, 0) or (0, 0). A step runs those rows alone
    whose weight is not zero. A UNet that was distilled takes the scales as its input, or has them in its
    weights, and runs one row: its prediction is guided already, and is never guided again.

    Args:
        unet: 8 input channels, the noisy latent and the source latent.
        distinct: conditioning tokens of each frame, then those of the null condition, one for all
            of them or for equal parts of them, in their order.
        source: I, the latents of the source frames.
        guidance: scales, and where they act.
        fixed: tells attention that has made its keys and values which rows come; None where it is not ours.

    Attributes:
        passes: of the UNet, a frame, so far.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        distinct: Float[Tensor, "u t ctx"],
        source: Float[Tensor, "b 4 h w"],
        guidance: Guidance,
        fixed: FixedRows | None = None,
    ) -> None:
        self.unet, self.distinct, self.guidance, self.fixed = unet, distinct, guidance, fixed
        self.source = source
        self.is_distilled = is_distilled(unet)
        self.rows: tuple[int, ...] = ()
        self.passes = 0

    @torch.no_grad()
    def __call__(
        self, latents: Float[Tensor, "b 4 h w"], t: Tensor, sigma: float
    ) -> Float[Tensor, "b 4 h w"]:
        """Predicts the noise, guided.

        Args:
            latents: x_t as the UNet takes it (`scheduler.scale_model_input`).
            t: timestep.
            sigma: its noise level, which says whether the guidance acts.

        Returns:
            The prediction, of the latents' type: rows are combined in it, whatever the UNet computes in.
        """
        scales = self.guidance.at(sigma)
        if self.is_distilled:
            self.select((FULL,))
            return self.run(latents, t, self.scale_input(*scales))
        self.select(rows_of(*scales))
        predicted = self.run(latents, t, None)
        return combine(predicted.chunk(len(self.rows)), *scales)

    def select(self, rows: tuple[int, ...]) -> None:
        """Makes ready the inputs that stay the same for as long as the same rows run."""
        if rows == self.rows:
            return
        self.rows, count = rows, len(self.source)
        nothing = torch.zeros_like(self.source)
        self.images = torch.cat([nothing if row == NULL else self.source for row in rows])
        frames = torch.arange(count, device=self.source.device)
        nulls = count + frames * (len(self.distinct) - count) // count  # one for all, or for every so many
        index = torch.cat([frames if row == FULL else nulls for row in rows])
        if self.fixed is None:
            self.tokens = self.distinct[index]
        else:
            # The layers ignore these; the UNet wants some.
            self.tokens = self.distinct[:1].expand(len(index), -1, -1)
            self.fixed.select(index)

    def run(
        self, latents: Float[Tensor, "b 4 h w"], t: Tensor, given: Tensor | None
    ) -> Float[Tensor, "n 4 h w"]:
        """The UNet on the selected rows; `given` is what a distilled one takes of the guidance."""
        count, dtype = len(self.rows), self.unet.dtype
        sample = torch.cat([torch.cat([latents] * count), self.images], dim=1)
        self.passes += count
        predicted: Tensor = self.unet(sample.to(dtype), t, self.tokens, timestep_cond=given).sample
        return predicted.to(latents.dtype)

    def scale_input(self, text: float, image: float) -> Float[Tensor, "b d"] | None:
        """What a distilled UNet takes as `timestep_cond`; None where a pair is baked in."""
        if not takes_scales(self.unet):
            return None
        scales = torch.tensor([[text, image]], device=self.source.device).expand(len(self.source), -1)
        return embed_scales(scales).to(self.unet.dtype)


@contextmanager
def denoiser(
    unet: UNet2DConditionModel,
    context: Float[Tensor, "b t ctx"],
    null: Float[Tensor, "n t ctx"],
    source: Float[Tensor, "b 4 h w"],
    guidance: Guidance,
) -> Iterator[Denoiser]:
    """Gives a drawing's denoiser; where the attention is plain, keys and values are computed once for it."""
    distinct = torch.cat([context, null]).to(unet.dtype)  # b+n t ctx
    held = fixed_context(unet, distinct) if is_plain(unet) else nullcontext()
    with held as fixed:
        yield Denoiser(unet, distinct, source, guidance, fixed)


def is_distilled(unet: UNet2DConditionModel) -> bool:
    """Whether a UNet's prediction is guided already (`ldm.distill`)."""
    return distilled_of(unet) is not None


def passes(unet: UNet2DConditionModel, guidance: Guidance, sigmas: Sequence[float]) -> int:
    """How many passes of the UNet a frame takes, with these noise levels of the steps."""
    if is_distilled(unet):
        return len(sigmas)
    return sum(len(rows_of(*guidance.at(sigma))) for sigma in sigmas)
