"""Sizes of the networks as settings state them: Stable Diffusion 1.5 by default. No torch."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, Strict
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


Size = Annotated[int, Strict(), Field(ge=1, le=2**20)]
Levels = Annotated[list[Size], Field(min_length=1, description="at least one whole number")]


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
                f"{' and '.join(map(str, divisors))} (groups, heads); no tensor tells these: where a "
                f"checkpoint does not either, a configuration states model.architecture.{part}.groups"
            )


@dataclass(frozen=True, config={"extra": "forbid"})
class UNetShape:
    """Channels and attention by level, finest first."""

    channels: Levels = field(default_factory=lambda: [320, 640, 1280, 1280])  # of each level
    attention: list[bool] = field(default_factory=lambda: [True, True, True, False])  # whether a level has it
    blocks: Size = 2  # of residual layers, a level
    heads: Size = UNET_HEADS  # of attention
    groups: Size = NORM_GROUPS  # of channels, normalised together
    in_channels: Size = 2 * LATENT_CHANNELS  # noisy latent and source frame; 4 without the frame

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

    channels: Levels = field(default_factory=lambda: [128, 256, 512, 512])  # of each level
    blocks: Size = 2  # of residual layers, a level
    groups: Size = NORM_GROUPS  # of channels, normalised together

    def __post_init__(self) -> None:
        check_channels("vae", self.channels, self.groups)

    @property
    def factor(self) -> int:
        """Pixels to a latent cell, along one side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, config={"extra": "forbid"})
class TextShape:
    """The CLIP text encoder; `width` is also the width of the UNet's context."""

    width: Size = 768  # of a token
    layers: Size = 12  # of the transformer
    heads: Size = 12  # of attention
    intermediate: Size = 3072  # width inside a layer's MLP
    vocab: Size = 49408  # tokens that there are

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
    llm_width: Size = 5120  # of a stage-1 feature: 5120 of LLaVA-13B
    mixer_width: Size = MIXER_WIDTH  # inside an MLP of the conditioner's pi


def check_sizes(path: Path, found: Architecture, wanted: Architecture) -> None:
    """Raises a `UserError` if a checkpoint states other networks than are wanted, a widened UNet apart."""
    widened_unet = replace(found.unet, in_channels=wanted.unet.in_channels)
    if (widened_unet, found.vae, found.text) != (wanted.unet, wanted.vae, wanted.text):
        raise UserError(
            f"{path}: the checkpoint and the configuration's model.architecture do not belong together; the "
            f"{'folder' if path.is_dir() else 'file'} has {found.unet}, {found.vae}, {found.text}"
        )
