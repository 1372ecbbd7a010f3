"""The guided teacher: its noise prediction for each sample's scales, by three passes; distilled, by one."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.guidance import build_context, guide
from ldm.module import Conditions
from ldm.networks.scales import embed_scales, takes_scales


def predict(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "b 4 h w"],
    t: Int64[Tensor, " b"],
    source: Float[Tensor, "b 4 h w"],
    context: Float[Tensor, "b n ctx"],
    scales: Float[Tensor, "b 2"] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    """One pass: e(x_t, t, I, T), in 32 bits whatever the UNet computes in.

    Args:
        unet: 8 input channels.
        latents: x_t.
        t: timesteps.
        source: I.
        context: T.
        scales: w_T and w_I, for a UNet that takes them.
    """
    given = None if scales is None else embed_scales(scales).to(unet.dtype)
    sample = torch.cat([latents, source], dim=1).to(unet.dtype)
    return unet(sample, t, context.to(unet.dtype), timestep_cond=given).sample.float()


class GuidedTeacher:
    """e~(x_t, t, w), frozen (InstructPix2Pix, equation 3).

    Args:
        unet: of a trained LEGO, or of one that takes scales.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(
        self,
        latents: Float[Tensor, "b 4 h w"],
        t: Int64[Tensor, " b"],
        source: Float[Tensor, "b 4 h w"],
        conditions: Conditions,
        scales: Float[Tensor, "b 2"],
    ) -> Float[Tensor, "b 4 h w"]:
        """Predicts the guided noise: (I, T), (I, 0) and (0, 0) in one batch, combined in 32 bits."""
        context = build_context(*conditions)
        if takes_scales(self.unet):
            return predict(self.unet, latents, t, source, context, scales)
        everything = torch.ones(len(context), dtype=torch.bool, device=context.device)
        null = build_context(*conditions, drop_text=everything)
        predicted = predict(
            self.unet,
            torch.cat([latents] * 3),
            torch.cat([t] * 3),
            torch.cat([source, source, torch.zeros_like(source)]),
            torch.cat([context, null, null]),
        )
        text, image = scales[:, :, None, None, None].unbind(dim=1)  # b 1 1 1
        full, image_only, nothing = predicted.chunk(3)
        return guide(full, image_only, nothing, text, image)
