"""Cross-attention to a context that stays the same: keys and values are computed once, not at every step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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
    """An attention processor that ignores the context it is called with and uses what was made before.

    It does what diffusers' `AttnProcessor2_0` does for the cross-attention of Stable Diffusion's UNet: tokens
    in, tokens out, no mask, no norms of its own.
    """

    distinct: tuple[Tensor, Tensor]
    key: Tensor
    value: Tensor

    def prepare(self, attn: Attention, context: Float[Tensor, "u t ctx"]) -> None:
        """Projects the distinct contexts."""
        self.distinct = split_heads(attn, attn.to_k(context)), split_heads(attn, attn.to_v(context))

    def select(self, rows: Int64[Tensor, " b"]) -> None:
        """Hands each row of the batch its own: which of the distinct contexts it attends to."""
        self.key, self.value = (projected[rows] for projected in self.distinct)  # b heads t d

    def clear(self) -> None:
        """Forgets all contexts."""
        self.key = self.value = torch.empty(0)
        self.distinct = (self.key, self.value)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "b n c"],
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002 - diffusers' protocol
        attention_mask: None = None,  # noqa: ARG002
        temb: Tensor | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "b n c"]:
        """Attends to the selected contexts."""
        query = split_heads(attn, attn.to_q(hidden_states))
        attended = functional.scaled_dot_product_attention(query, self.key, self.value)
        return merge_heads(attn, attended.to(query.dtype))


class FixedRows:
    """Says which of the fixed contexts each row of the next batches attends to."""

    def __init__(self, layers: Collection[FixedContext]) -> None:
        self.layers = layers

    def select(self, rows: Int64[Tensor, " b"]) -> None:
        """Hands each row of the batch its own, in every layer."""
        for layer in self.layers:
            layer.select(rows)


# The same objects at every call, so that a compiled UNet is compiled once.
KEPT: WeakKeyDictionary[UNet2DConditionModel, dict[str, FixedContext]] = WeakKeyDictionary()


@contextmanager
def fixed_context(unet: UNet2DConditionModel, context: Float[Tensor, "u t ctx"]) -> Iterator[FixedRows]:
    """Gives every cross-attention (`attn2`) of a UNet the same distinct contexts.

    The UNet may be called once the rows have been selected, and they may be selected anew.
    """
    before = dict(unet.attn_processors)
    fixed = KEPT.setdefault(unet, {})
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith(".attn2"):
                fixed.setdefault(f"{name}.processor", FixedContext()).prepare(module, context)
    unet.set_attn_processor({**before, **fixed})
    try:
        yield FixedRows(fixed.values())
    finally:
        unet.set_attn_processor(before)
        for processor in fixed.values():
            processor.clear()


def is_plain(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet's attention is diffusers' own, which `fixed_context` may stand in for."""
    return all(type(processor) is AttnProcessor2_0 for processor in unet.attn_processors.values())
