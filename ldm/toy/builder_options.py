"""The flags of the toy's builders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egogen.cli import flag
from egogen.layout import Layout
from egogen.seeds import read_seed
from ldm.networks.devices import HELP


@dataclass(frozen=True)
class BuilderOptions:
    """What every builder is told."""

    data_root: Path = flag("folder that holds EgoGen/", type=Path, required=True)
    out: Path = flag("the file to write", type=Path, required=True)
    dataset: str = flag("ego4d or epickitchen", default="ego4d")
    seed: int = flag("seed of weights, batches and noise", type=read_seed, default=0)

    @property
    def layout(self) -> Layout:
        """Path rules of the data."""
        return Layout(self.data_root, self.dataset)


@dataclass(frozen=True)
class StartOptions(BuilderOptions):
    """The builder's own flags."""

    resolution: int = flag("side of the squashed frames, in pixels", type=int, default=48)
    shape: str = flag(
        "the networks: small (minutes) or sharp (hours: four pixels a latent, an encoder that learns)",
        choices=["small", "sharp"],
        default="small",
    )
    like: Path | None = flag(
        "a finished start or editor: its autoencoder and text encoder are taken, the UNet alone is trained",
        type=Path,
    )
    vae_steps: int = flag("optimiser steps of the autoencoder", type=int, default=350)
    text_steps: int = flag("optimiser steps of the text encoder alone", type=int, default=500)
    unet_steps: int = flag("optimiser steps of the text-to-image model", type=int, default=300)


@dataclass(frozen=True)
class EditorOptions(BuilderOptions):
    """The builder's own flags."""

    start: Path = flag("the .ckpt of python -m ldm.toy", type=Path, required=True)
    resolution: int = flag("side of the squashed frames, in pixels", type=int, default=48)
    steps: int = flag("optimiser steps, of 32 pairs each", type=int, default=6000)
    hold: bool = flag(
        "hold the rate until the last fifth, and keep the training as it was there: once OUT is deleted, the "
        "same command with more --steps goes on from it",
        action="store_true",
    )
    device: str = flag(f"where the UNet trains: {HELP}", default="cpu")


@dataclass(frozen=True)
class ClassifierOptions(BuilderOptions):
    """The builder's own flags."""

    steps: int = flag("optimiser steps", type=int, default=3000)
    device: str = flag(HELP, default="auto")
