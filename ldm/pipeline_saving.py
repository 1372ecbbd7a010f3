"""How a pipeline leaves memory: a folder with its card, a stock InstructPix2Pix pipeline, a repository."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from diffusers import (
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
)

from egogen.errors import UserError
from egogen.sharing.model_card import ModelWords, write_model_card
from egogen.sharing.pushing import push
from ldm.checkpoints.pipeline_card import card_words, write_door
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.networks.architecture import Parts
from ldm.networks.distilled import UNBAKED
from ldm.networks.scales import distilled_of, takes_scales


class SavedPipeline(DiffusionPipeline):
    """The saving half of `ldm.pipeline.LegoPipeline`."""

    def to_instruct_pix2pix(self) -> StableDiffusionInstructPix2PixPipeline:
        """The same networks as a stock InstructPix2Pix pipeline.

        Given what `encode_context` returns, it draws LEGO's frames; its Euler ancestral steps interpolate
        sigma and not its logarithm, so that they agree with ours closely and not exactly. A distilled
        checkpoint whose scales are baked in is drawn with guidance_scale=1, which asks for one pass.

        Raises:
            UserError: its UNet takes guidance scales, which the stock pipeline does not give.
        """
        if takes_scales(self.unet):
            raise UserError(UNBAKED)
        stated = distilled_of(self.unet)
        stock = EulerAncestralDiscreteScheduler(**TRAINING_SCHEDULE, timestep_spacing="linspace")
        return StableDiffusionInstructPix2PixPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler if stated and stated.phases else stock,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def save_instruct_pix2pix(self, folder: str | Path, words: ModelWords | None = None) -> None:
        """Writes a stock InstructPix2Pix pipeline, its card and, in `conditioner/`, the conditioner."""
        self.to_instruct_pix2pix().save_pretrained(folder)
        if self.conditioner is not None:
            self.conditioner.save_pretrained(Path(folder) / "conditioner")
        write_model_card(Path(folder), card_words(self.parts, stock=True), words)

    def save_pretrained(  # type: ignore[override]  # pushing is `push_to_hub`'s
        self,
        folder: str | Path,
        words: ModelWords | None = None,
        **options: Any,  # noqa: ANN401 - diffusers' own
    ) -> None:
        """Writes a diffusers folder with a card, README.md.

        Args:
            folder: where.
            words: what a person says of the model.
            options: as of diffusers' pipelines; `push_to_hub=True` and those of `push_to_hub` send it too.

        Raises:
            UserError: it cannot be sent.
        """
        names = ("repo_id", "private", "token", "commit_message")
        sent = {name: options.pop(name) for name in names if name in options}
        wanted = options.pop("push_to_hub", False)
        super().save_pretrained(folder, **options)
        write_door(Path(folder))
        write_model_card(Path(folder), card_words(self.parts), words)
        if wanted:
            repo, message = sent.pop("repo_id", Path(folder).name), sent.pop("commit_message", "")
            push(Path(folder), repo, message=message, **sent)

    def push_to_hub(  # type: ignore[override]  # a repository is whole, and has no variants
        self,
        repo_id: str,
        commit_message: str = "",
        private: bool | None = None,
        token: str | None = None,
        words: ModelWords | None = None,
    ) -> str:
        """Saves to a temporary folder and sends that to the hub, with its card.

        Args:
            repo_id: OWNER/NAME.
            commit_message: by default the number of files.
            private: whether a new repository is seen by its owners alone.
            token: by default the one that `hf auth login` or HF_TOKEN left.
            words: what a person says of the model; `words.metrics` are its results.

        Returns:
            The address of the commit.

        Raises:
            UserError: see `egogen.sharing.pushing.push`.
        """
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "lego"
            self.save_pretrained(whole, words)
            return push(whole, repo_id, private=private, token=token, message=commit_message)

    @property
    def parts(self) -> Parts:
        """Its networks."""
        return Parts(self.unet, self.vae, self.text_encoder, self.conditioner)
