"""TorchScript archives for tests: weights by name, and a module that runs code while it is loaded."""

# ruff: noqa: ANN001, ANN201, ANN204 - TorchScript compiles these methods and reads annotations its own way

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn


class Restored(nn.Module):
    """Writes into a file of its choice while torch loads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        self.weight = torch.from_file(self.path, True, 4).fill_(1.0)


def save(module: nn.Module, path: Path) -> Path:
    """Writes an archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is an old format
        torch.jit.script(module).save(path)
    return path


def save_scripted(weights: Mapping[str, torch.Tensor], path: Path) -> Path:
    """Writes an archive of these weights."""
    whole = nn.Module()
    for name, value in weights.items():
        parent = whole
        *places, last = name.split(".")
        for place in places:
            if not hasattr(parent, place):
                parent.add_module(place, nn.Module())
            parent = getattr(parent, place)
        parent.register_buffer(last, value)
    return save(whole, path)
