"""The classifier of toy frames, in whose features `toy_fid` and `toy_similarity` compare frames.

`python -m ldm.toy.classifier` trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from egogen.errors import UserError

SIDE = 48  # pixels of the squashed frame
CHANNELS = (32, 64, 96, 128)
FACTS = ("verb", "hand", "object", "object_colour")  # of a clip's metadata, a head each


class ToyClassifier(nn.Module):
    """Four convolutions of stride 2, the mean over what is left, and a head for the values of each fact."""

    def __init__(self, classes: Mapping[str, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *CHANNELS)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        # What is where counts as much as what is there: 3 x 3 places are told apart.
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(9 * CHANNELS[-1], CHANNELS[-1]), nn.SiLU())
        self.heads = nn.ModuleDict({fact: nn.Linear(CHANNELS[-1], count) for fact, count in classes.items()})

    def embed(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features, at least -0.28, of frames in [0, 1] of any size; d is 128."""
        squashed = functional.interpolate(
            frames, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
        )
        features: Tensor = self.features(self.body(2 * squashed - 1))
        return features

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b n"]]:
        """Logits of each fact, of frames in [0, 1]."""
        features = self.embed(frames)
        return {fact: head(features) for fact, head in self.heads.items()}


def load_classifier(path: Path, device: torch.device) -> ToyClassifier:
    """Reads a classifier that `python -m ldm.toy.classifier` wrote.

    Raises:
        UserError: the file is of something else.
    """
    try:
        state = safetensors.torch.load_file(path)
        counts = {fact: len(state[f"heads.{fact}.bias"]) for fact in FACTS}
        made = ToyClassifier(counts)
        made.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not a classifier of toy frames ({reason}); make it by python -m ldm.toy.classifier"
        ) from None
    return made.requires_grad_(False).eval().to(device)
