"""Cross-attention to a context that stays the same: keys and values are computed once, not at every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


def split_heads(attn: Attention, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n d"]:
    """Gives each head its share of the channels."""
    return rearrange(tokens, "b n (heads d) -> b heads n d", heads=attn.heads)


def merge_heads(attn: Attention, attended: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b n c"]:
    """Joins what the heads found and projects it."""
    merged = rearrange(attended, "b heads n d -> b n (heads d)")
    return attn.to_out[1](attn.to_out[0](merged))


class FixedContext:
    """An attention processor that ignores the context it is called with and uses what `prepare` made.

    It does what diffusers' `AttnProcessor2_0` does for the cross-attention of Stable Diffusion's UNet: tokens
    in, tokens out, no mask, no norms of its own.
    """

    key: Tensor
    value: Tensor

    def prepare(self, attn: Attention, context: Float[Tensor, "u t ctx"], rows: Int64[Tensor, " b"]) -> None:
        """Projects the distinct contexts and hands each row of the batch its own.

        Args:
            attn: the layer.
            context: the distinct contexts.
            rows: which of them each row of the batch attends to.
        """
        self.key, self.value = (
            split_heads(attn, layer(context))[rows] for layer in (attn.to_k, attn.to_v)
        )  # b heads t d

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "b n c"],
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002 - diffusers' protocol
        attention_mask: None = None,  # noqa: ARG002
        temb: Tensor | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "b n c"]:
        """Attends to the prepared context."""
        query = split_heads(attn, attn.to_q(hidden_states))
        attended = functional.scaled_dot_product_attention(query, self.key, self.value)
        return merge_heads(attn, attended.to(query.dtype))


# The same objects at every call, so that a compiled UNet is compiled once.
KEPT: WeakKeyDictionary[UNet2DConditionModel, dict[str, FixedContext]] = WeakKeyDictionary()


@contextmanager
def fixed_context(
    unet: UNet2DConditionModel, context: Float[Tensor, "u t ctx"], rows: Int64[Tensor, " b"]
) -> Iterator[None]:
    """Gives every cross-attention (`attn2`) of a UNet the same contexts; see `FixedContext.prepare`."""
    before = dict(unet.attn_processors)
    fixed = KEPT.setdefault(unet, {})
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith(".attn2"):
                fixed.setdefault(f"{name}.processor", FixedContext()).prepare(module, context, rows)
    unet.set_attn_processor({**before, **fixed})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
        for processor in fixed.values():
            processor.key = processor.value = torch.empty(0)


def is_plain(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet's attention is diffusers' own, which `fixed_context` may stand in for."""
    return all(type(processor) is AttnProcessor2_0 for processor in unet.attn_processors.values())
