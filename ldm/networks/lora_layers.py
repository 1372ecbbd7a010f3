"""Low-rank adapters: put into a UNet to be trained, and added to the weights of networks."""

from __future__ import annotations

from collections.abc import Sequence

import peft
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm.networks.architecture import widened
from ldm.networks.shapes import LATENT_CHANNELS

Layer = nn.Linear | nn.Conv2d
NAME = "default"  # peft's, of an adapter that is alone


def targets_of(unet: UNet2DConditionModel, targets: Sequence[str]) -> list[str]:
    """The layers whose names are, or end in, one of the targets."""
    ends = tuple(f".{target}" for target in targets)
    return [name for name, _ in unet.named_modules() if f".{name}".endswith(ends)]


def add_adapters(unet: UNet2DConditionModel, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Freezes a UNet and gives it adapters that learn; at first they change nothing (B is zero)."""
    unet.requires_grad_(False)
    found = targets_of(unet, targets)
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=found)  # type: ignore[arg-type]  # it takes fractions
    unet.add_adapter(settings, adapter_name=NAME)


class Delta:
    """What an adapter adds to a weight: scale B A.

    Args:
        down: A, [rank, inputs], of a convolution [rank, inputs, k, k].
        up: B, [outputs, rank], or [outputs, rank, 1, 1].
        scale: alpha / rank.
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def fault(self, layer: Layer) -> str:
        """Why it cannot be added to a layer; empty if it can."""
        down, up, weight = self.down, self.up, layer.weight
        rank = down.shape[0]
        if self.fitted(layer)[0].numel() == weight[0].numel() and up.numel() == rank * weight.shape[0]:
            finite = all(bool(part.float().isfinite().all()) for part in (down, up, torch.tensor(self.scale)))
            return "" if finite else "holds NaN or infinity"
        return f"A is {tuple(down.shape)} and B {tuple(up.shape)}, the weight {tuple(weight.shape)}"

    def fitted(self, layer: Layer) -> Tensor:
        """A, widened by zeros where the UNet's first convolution was (it takes the source latent too)."""
        first = isinstance(layer, nn.Conv2d) and layer.in_channels == 2 * LATENT_CHANNELS
        narrow = self.down.ndim == 4 and self.down.shape[1] == LATENT_CHANNELS
        return widened(self.down, 2 * LATENT_CHANNELS) if first and narrow else self.down

    def times(self, layer: Layer) -> Float[Tensor, "o *i"]:
        """The product in the shape of a layer's weight."""
        product = self.up.float().flatten(1) @ self.fitted(layer).float().flatten(1)
        return self.scale * product.reshape(layer.weight.shape)


@torch.no_grad()
def add(layer: Layer, delta: Delta, weight: float = 1.0) -> None:
    """W + weight scale B A, in place."""
    layer.weight.add_(weight * delta.times(layer).to(layer.weight))
