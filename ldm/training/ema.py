"""A moving average of trained weights; sampling uses it instead of the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of named parameters, with the published warm-up of its decay.

    The decay of the n-th update (n = 1, 2, ...) is min(decay, (1 + n) / (10 + n)).

    Args:
        parameters: name -> parameter; the average starts at their values.
        decay: the final decay, 0 .. 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float = 0.9999) -> None:
        self.decay = decay
        self.names = list(parameters)
        self.updates = 0
        self.shadow = [value.detach().clone() for value in parameters.values()]

    def to(self, device: torch.device | str) -> None:
        """Moves the average; in main memory it costs a copy of all weights at each update."""
        self.shadow = [value.to(device) for value in self.shadow]

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Moves the average towards the parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        values = [
            parameters[name].detach().to(shadow.device, non_blocking=False)
            for name, shadow in zip(self.names, self.shadow, strict=True)
        ]
        torch._foreach_lerp_(self.shadow, values, 1 - decay)

    def values(self) -> dict[str, Tensor]:
        """Name -> averaged tensor."""
        return dict(zip(self.names, self.shadow, strict=True))

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor], updates: int) -> None:
        """Takes over an average that was saved, with its number of updates."""
        torch._foreach_copy_(self.shadow, [values[name] for name in self.names])
        self.updates = updates

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Puts the averaged values into the parameters for as long as the block runs.

        Autocast keeps 16-bit copies of the parameters it has met, which know nothing of the change.
        """
        trained = [parameters[name].detach() for name in self.names]  # of the parameters' own memory
        kept = [value.clone() for value in trained]
        try:
            torch._foreach_copy_(trained, self.shadow)
            torch.clear_autocast_cache()
            yield
        finally:
            torch._foreach_copy_(trained, kept)
            torch.clear_autocast_cache()
