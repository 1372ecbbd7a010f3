"""The frame of both ProxEdit variants: invert a source frame, then draw source and target side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ldm.baselines.control import Control, controlled
from ldm.baselines.negative_prompt import slerp
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.config.baselines import ProxConfig
from ldm.diffusion.ddim import Grid, invert

Settings = TypeVar("Settings", bound=ProxConfig)


class PairEdit(ABC, Generic[Settings]):
    """Edits a batch of frames; nothing is drawn at random, and no pair knows of another.

    Args:
        model: Stable Diffusion.
        clean: latents of the source frames.
        sources: prompts of the source frames.
        targets: prompts of the frames to draw.
        settings: of the variant.
    """

    control: Control | None

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
        self.source, self.target = model.embed(sources), model.embed(targets)  # b 77 ctx
        self.null = model.embed([""]).expand_as(self.source)

    @torch.no_grad()
    def edit(self) -> Float[Tensor, "2 b 4 h w"]:
        """Latents of the source frames, drawn again, and of the targets."""
        path = self.invert()
        latents = torch.stack([path[-1], path[-1]])
        with controlled(self.model.unet, self.control):
            for step in range(self.settings.steps):
                latents = self.step(step, latents, path)
        return latents

    @torch.no_grad()
    def invert(self) -> Float[Tensor, "n b 4 h w"]:
        """The path from the clean latents to noise, with the source prompts and without guidance."""
        return invert(lambda latents, t: self.model.predict(latents, t, self.source), self.clean, self.grid)

    @abstractmethod
    def step(
        self, step: int, latents: Float[Tensor, "2 b 4 h w"], path: Float[Tensor, "n b 4 h w"]
    ) -> Float[Tensor, "2 b 4 h w"]:
        """The latents of source and target after a step.

        Args:
            step: counts from 0, the noisiest.
            latents: before it.
            path: the inverted path, from clean to noise.
        """

    def level(self, step: int) -> int:
        """The grid's level that a step starts from."""
        return self.settings.steps - 1 - step

    def predict(
        self, step: int, latents: Float[Tensor, "2 b 4 h w"], negative: Float[Tensor, "2 b 77 ctx"]
    ) -> tuple[Float[Tensor, "2 b 4 h w"], Float[Tensor, "2 b 4 h w"]]:
        """Predicted noise with the negative embeddings and with the prompts, of source and target."""
        if self.control is not None:
            self.control.step = step
        context = torch.cat(
            [rearrange(negative, "k b t d -> (k b) t d"), self.source, self.target]
        )  # 4b 77 ctx
        rows = rearrange(torch.cat([latents, latents]), "k b c h w -> (k b) c h w")
        timestep = self.grid.timesteps[self.level(step)]
        null, text = rearrange(
            self.model.predict(rows, timestep, context), "(part k b) c h w -> part k b c h w", part=2, k=2
        )
        return null, text

    def towards_null(self, embedding: Float[Tensor, "b 77 ctx"]) -> Float[Tensor, "b 77 ctx"]:
        """An embedding moved towards that of "" by `npi_interp`."""
        share = self.settings.npi_interp
        return slerp(embedding, self.null, share) if share else embedding
