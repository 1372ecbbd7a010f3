"""The frame of both ProxEdit variants: invert a source frame, then draw source and target side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ldm.baselines.control import Control, controlled
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.config.baselines import ProxConfig
from ldm.diffusion.ddim import Grid, invert

Settings = TypeVar("Settings", bound=ProxConfig)
Pair = Float[Tensor, "2 b 4 h w"]  # latents, or noise in them, of sources and targets
Inverted = Float[Tensor, "n b 4 h w"]  # latents of the sources, from clean to noise
Embeddings = Float[Tensor, "b 77 ctx"]


class PairEdit(ABC, Generic[Settings]):
    """Edits a batch of frames; nothing is drawn at random, and no pair knows of another.

    Args:
        model: Stable Diffusion.
        clean: latents of the source frames.
        sources: prompts of the source frames.
        targets: prompts of the frames to draw.
        settings: of the variant.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: StableDiffusion,
        clean: Float[Tensor, "b 4 h w"],
        sources: Sequence[str],
        targets: Sequence[str],
        settings: Settings,
    ) -> None:
        self.model, self.clean, self.settings = model, clean, settings
        self.sources, self.targets = sources, targets
        self.grid = Grid(settings.steps)
        self.source, self.target = model.embed(sources), model.embed(targets)
        self.null = model.embed([""]).expand_as(self.source)
        self.negative = torch.stack(self.negatives())  # 2 b 77 ctx
        self.control = self.make_control()

    @abstractmethod
    def negatives(self) -> tuple[Embeddings, Embeddings]:
        """The negative embeddings of sources and targets."""

    @abstractmethod
    def make_control(self) -> Control | None:
        """The attention control that the settings ask for."""

    @abstractmethod
    def step(self, step: int, latents: Pair, path: Inverted) -> Pair:
        """The latents after a step, which counts from 0, the noisiest; `path` is what `invert` found."""

    @torch.no_grad()
    def edit(self) -> Pair:
        """Latents of the source frames, drawn again, and of the targets."""
        path = self.invert()
        latents = torch.stack([path[-1], path[-1]])
        with controlled(self.model.unet, self.control):
            for step in range(self.settings.steps):
                latents = self.step(step, latents, path)
        return latents

    @torch.no_grad()
    def invert(self) -> Inverted:
        """The path from the clean latents to noise, with the source prompts and without guidance."""
        return invert(lambda latents, t: self.model.predict(latents, t, self.source), self.clean, self.grid)

    def level(self, step: int) -> int:
        """The grid's level that a step starts from."""
        return self.settings.steps - 1 - step

    def predict(self, step: int, latents: Pair, negative: Float[Tensor, "2 b 77 ctx"]) -> tuple[Pair, Pair]:
        """Predicted noise with the negative embeddings, and with the prompts."""
        if self.control is not None:
            self.control.step = step
        context = torch.cat([*negative, self.source, self.target])  # 4b 77 ctx
        rows = rearrange(torch.cat([latents, latents]), "k b c h w -> (k b) c h w")
        found = self.model.predict(rows, self.grid.timesteps[self.level(step)], context)
        null, text = rearrange(found, "(part k b) c h w -> part k b c h w", part=2, k=2)
        return null, text

    def towards_null(self, embedding: Embeddings) -> Embeddings:
        """An embedding moved towards that of "" by `npi_interp`."""
        share = self.settings.npi_interp
        return slerp(embedding, self.null, share) if share else embedding


def slerp(start: Float[Tensor, "b t d"], end: Float[Tensor, "b t d"], share: float) -> Float[Tensor, "b t d"]:
    """Goes a share of the way on the great circle between embeddings, each taken as one long vector.

    So negative-prompt inversion (Miyake et al. 2023) guides away from the source prompt, not from "". Norms
    are not corrected (released). Embeddings of one direction, such as those of equal texts, have no circle
    between them and are interpolated linearly.
    """
    first, last = (rearrange(each, "b t d -> b (t d)") for each in (start, end))
    angle = cosine_similarity(first, last).clamp(-1, 1).acos()[:, None]  # b 1
    sine = angle.sin()
    curved = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * last) / sine
    mixed = torch.where(sine < 1e-6, torch.lerp(first, last, share), curved)
    return rearrange(mixed, "b (t d) -> b t d", t=start.shape[1])
