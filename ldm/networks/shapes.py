"""Sizes of the networks as settings state them: Stable Diffusion 1.5 by default. No torch."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import NamedTuple

from pydantic.dataclasses import dataclass

from egogen.errors import UserError

LATENT_CHANNELS = 4
LATENT_SCALE = 0.18215
# No tensor tells these: attention heads of the UNet, groups of its norms, width of a CLIP text head.
UNET_HEADS = 8
NORM_GROUPS = 32
TEXT_HEAD_WIDTH = 64
MIXER_HEADS = 8
MIXER_WIDTH = 2048  # inner width of the feed-forward layers, PyTorch's default (published)


class Streams(NamedTuple):
    """Which of stage 1's features enter the context; the paper's ablation leaves one of them out."""

    image: bool = True
    text: bool = True

    def __str__(self) -> str:
        return " and ".join(name for name, there in self._asdict().items() if there) + " features"


BOTH = Streams()


def check_channels(part: str, channels: list[int], *divisors: int) -> None:
    """Raises a `UserError` for a width that its groups or heads do not divide."""
    for width in channels:
        if any(width % divisor for divisor in divisors):
            raise UserError(
                f"model.architecture.{part}.channels: got {width}, expected multiples of "
                f"{' and '.join(map(str, divisors))} (groups, heads)"
            )


@dataclass(frozen=True, config={"extra": "forbid"})
class UNetShape:
    """Channels and attention by level, finest first."""

    channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    attention: list[bool] = field(default_factory=lambda: [True, True, True, False])
    blocks: int = 2
    heads: int = UNET_HEADS
    groups: int = NORM_GROUPS
    in_channels: int = 2 * LATENT_CHANNELS

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise UserError(
                f"model.architecture.unet: {len(self.channels)} channels and {len(self.attention)} attention "
                "entries; expected one of each per level"
            )
        check_channels("unet", self.channels, self.groups, self.heads)


@dataclass(frozen=True, config={"extra": "forbid"})
class VAEShape:
    """Channels by level, finest first; each level but the last halves the picture."""

    channels: list[int] = field(default_factory=lambda: [128, 256, 512, 512])
    blocks: int = 2
    groups: int = NORM_GROUPS

    def __post_init__(self) -> None:
        check_channels("vae", self.channels, self.groups)

    @property
    def factor(self) -> int:
        """Pixels to a latent cell, along one side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, config={"extra": "forbid"})
class TextShape:
    """The CLIP text encoder; `width` is also the width of the UNet's context."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocab: int = 49408

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % MIXER_HEADS:
            raise UserError(
                f"model.architecture.text.width: got {self.width}, expected a multiple of heads "
                f"({self.heads}) and of {MIXER_HEADS}"
            )


@dataclass(frozen=True, config={"extra": "forbid"})
class Architecture:
    """All sizes; `llm_width` is d of the stage-1 features, `mixer_width` that of the conditioner's pi."""

    unet: UNetShape = field(default_factory=UNetShape)
    vae: VAEShape = field(default_factory=VAEShape)
    text: TextShape = field(default_factory=TextShape)
    llm_width: int = 5120
    mixer_width: int = MIXER_WIDTH


def check_sizes(path: Path, found: Architecture, wanted: Architecture) -> None:
    """Raises a `UserError` if a checkpoint states other networks than are wanted, a widened UNet apart."""
    widened_unet = replace(found.unet, in_channels=wanted.unet.in_channels)
    if (widened_unet, found.vae, found.text) != (wanted.unet, wanted.vae, wanted.text):
        raise UserError(
            f"{path}: the checkpoint and the configuration's model.architecture do not belong together; the "
            f"{'folder' if path.is_dir() else 'file'} has {found.unet}, {found.vae}, {found.text}"
        )
