"""Attention control: a UNet's attention layers ask somebody else how a source and a target attend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor

from ldm.networks.attention import merge_heads, split_heads

Queries = Float[Tensor, "b heads n d"]  # and what they find
Keys = Float[Tensor, "b heads t d"]  # and values
# The four groups of rows of a batch: predictions without the text, then with it; of source, then target.
NULL_SOURCE, NULL_TARGET, SOURCE, TARGET = GROUPS = range(4)


class Layer(NamedTuple):
    """An attention layer: its transformer block, counted from 0 as the UNet runs, and which of the two."""

    block: int
    cross: bool


@runtime_checkable
class Control(Protocol):
    """Decides how layers attend. `step` counts the sampling steps from 0."""

    step: int

    def attend(self, query: Queries, key: Keys, value: Keys, layer: Layer) -> Queries:
        """Attention of the four groups of rows, whatever is done to it on the way."""
        ...


class ControlledAttention:
    """A diffusers attention processor that leaves the attention of its layer to a `Control`.

    It does what `AttnProcessor2_0` does for Stable Diffusion's UNet: tokens in, tokens out, no mask.
    """

    def __init__(self, control: Control, layer: Layer) -> None:
        self.control, self.layer = control, layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "b n c"],
        encoder_hidden_states: Float[Tensor, "b t ctx"] | None = None,
        attention_mask: None = None,  # noqa: ARG002 - diffusers' protocol
        temb: Tensor | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "b n c"]:
        """Attends to the context, or to the layer's own tokens."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            split_heads(attn, part)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        return merge_heads(attn, self.control.attend(query, key, value, self.layer))


def attention_layers(unet: UNet2DConditionModel) -> dict[str, Layer]:
    """The UNet's attention layers in the order in which they run, by the names of their processors."""
    parts = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    parts.append(("mid_block", unet.mid_block))
    parts += [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    names = [f"{part}.{name}" for part, block in parts for name, _ in block.named_modules()]
    blocks = [name.removesuffix(".attn1") for name in names if name.endswith(".attn1")]
    return {
        f"{name}.attn{1 + cross}.processor": Layer(block, bool(cross))
        for block, name in enumerate(blocks)
        for cross in (False, True)
    }


@contextmanager
def controlled(unet: UNet2DConditionModel, control: Control | None) -> Iterator[None]:
    """Puts a control in charge of the UNet's attention while the block runs; None changes nothing."""
    if control is None:
        yield
        return
    before = dict(unet.attn_processors)
    unet.set_attn_processor(
        {name: ControlledAttention(control, layer) for name, layer in attention_layers(unet).items()}
    )
    try:
        yield
    finally:
        unet.set_attn_processor(before)
