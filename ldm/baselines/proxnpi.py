"""ProxNPI (Han et al. 2024): negative-prompt inversion whose guidance keeps what the prompts agree on."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from ldm.baselines.pair_edit import Embeddings, Inverted, Pair, PairEdit
from ldm.baselines.prompt_to_prompt import PromptToPrompt
from ldm.baselines.proximal import edited_region, find_threshold, shrink
from ldm.baselines.token_maps import TokenMap, token_map
from ldm.config.baselines import ProxNPIConfig
from ldm.diffusion.ddim import add_noise, predict_clean

RELEASED_LIMIT = 32 * 32  # tokens; all levels but the finest at 512 pixels


class ProxNPI(PairEdit[ProxNPIConfig]):
    """Source and target start from the same inverted noise; see `PairEdit`.

    Raises:
        UserError: `controller: replace`, and a pair of prompts differs in its number of words.
    """

    def negatives(self) -> tuple[Embeddings, Embeddings]:
        """The negative embeddings of sources and targets."""
        negative = self.towards_null(self.source)
        return negative, negative

    def make_control(self) -> PromptToPrompt | None:
        """The attention control that the settings ask for."""
        settings = self.settings
        if settings.controller == "none":
            return None
        maps = [
            token_map(self.model.tokenizer, source, target, settings.controller, settings.reweight)
            for source, target in zip(self.sources, self.targets, strict=True)
        ]
        height, width = self.clean.shape[-2:]
        second = ((height + 1) // 2) * ((width + 1) // 2)  # tokens of the finest level but one
        return PromptToPrompt(
            TokenMap(*(torch.stack(part).to(self.clean) for part in zip(*maps, strict=True))),
            cross_steps=int(settings.cross_replace * (settings.steps + 1)),
            self_steps=int(settings.self_replace * settings.steps),
            self_limit=RELEASED_LIMIT if settings.self_limit == "released" else second,
        )

    def step(self, step: int, latents: Pair, path: Inverted) -> Pair:
        """The latents after a step."""
        return self.guided_step(step, latents, *self.predict(step, latents, self.negative), path)

    def guided_step(self, step: int, latents: Pair, null: Pair, text: Pair, path: Inverted) -> Pair:
        """A DDIM step with proximal guidance from given predictions (Han et al. 2024, section 3).

        `null` and `text` are the noise that is predicted with the negative embeddings and with the prompts.
        """
        settings, level = self.settings, self.level(step)
        noise, edited = self.guide(null, text, self.grid.timesteps[level])
        clean = predict_clean(latents, noise, self.grid.alpha(level))
        keep = 0.0 if edited is None else settings.recon_lr * (~edited).to(latents)
        if settings.reconstruction_guidance:
            clean = clean - keep * (clean - self.clean)
        moved = add_noise(clean, noise, self.grid.alpha(level - 1))
        # With a negative recon_t either guidance brings this one (released, F-BL-07).
        if settings.inversion_guidance or (settings.reconstruction_guidance and settings.recon_t < 0):
            moved = moved - keep * (moved - path[level])
        return moved

    def guide(self, null: Pair, text: Pair, timestep: int) -> tuple[Pair, Bool[Tensor, "2 b 4 h w"] | None]:
        """Guided noise and what of the latents is edited; None where nothing is held back.

        lambda is a quantile over both branches. Where the source's negative embedding is its prompt, half of
        the differences are 0, so that quantile q is quantile 2q - 1 of the target's (released, F-BL-02).
        """
        settings = self.settings
        delta = text - null
        threshold = find_threshold(delta, settings.quantile)
        delta = shrink(delta, threshold, settings)
        noise = null + settings.guidance * delta
        if settings.prox == "none" or not self.holds_back(timestep):
            return noise, None
        return noise, edited_region(delta, threshold, settings.dilate_mask)

    def holds_back(self, timestep: int) -> bool:
        """Whether what is not edited is pulled to the source at a timestep."""
        limit = self.settings.recon_t
        return timestep < limit if limit > 0 else limit < 0 and timestep > -limit
