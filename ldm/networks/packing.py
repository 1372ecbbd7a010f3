"""Convolutions in 16 bits on a CPU: weights laid out once for its tiles, not anew at every call."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PackedConvolution:
    """What a convolution computes, by a copy of its weights in the layout that oneDNN multiplies.

    The results are the same to the last bit. The copy is of the weights as they are now: what is trained, or
    is given adapters afterwards, must not be packed. Nothing is kept for gradients.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.geometry = geometry(layer)
        self.bias = None if layer.bias is None else layer.bias.detach()
        # What torch's own compiler for CPUs does with frozen weights; torch has no public name for it.
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight = packed(layer.weight.detach().to_mkldnn(), *self.geometry)

    def __call__(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The layer's `forward`."""
        convolve, rows = torch.ops.mkldnn._convolution_pointwise, torch.channels_last
        image = image.contiguous(memory_format=rows)  # of a packed weight nobody sees that it wants these
        made: Tensor = convolve(image, self.weight, self.bias, *self.geometry, "none", [], "")
        return made


def geometry(layer: nn.Conv2d) -> tuple[Any, ...]:
    """Where a convolution's products are taken."""
    return layer.padding, layer.stride, layer.dilation, layer.groups


def pack_convolutions(network: nn.Module, packed: bool) -> None:
    """Has the convolutions of a network that only draws take packed weights, or their own again.

    Args:
        network: to pack it, in bfloat16, on a CPU with tiles (`ldm.networks.precision.has_tiles`).
        packed: whether they take packed ones.
    """
    for layer in network.modules():
        if type(layer) is not nn.Conv2d:
            continue
        vars(layer).pop("forward", None)
        if packed and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.forward = PackedConvolution(layer)  # type: ignore[method-assign, assignment]
