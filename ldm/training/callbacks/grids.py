"""What a training run shows: grids of source, target and sample, with their texts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytorch_lightning as lightning
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import encoded
from ldm.config.sections import SamplingConfig
from ldm.data.noise import item_generator
from ldm.data.pairs import EgoGenPairs, stack
from ldm.module import LatentDiffusion
from ldm.pipeline import LegoPipeline
from ldm.training.callbacks.frame_grid import grid_of

log = logging.getLogger(__name__)


class ImageGrids(lightning.Callback):
    """Draws the first `count` val items with the averaged weights, to TensorBoard and as PNG in a folder."""

    def __init__(
        self, pairs: EgoGenPairs, sampling: SamplingConfig, folder: Path, every: int, count: int
    ) -> None:
        self.pairs, self.sampling, self.folder = pairs, sampling, folder
        self.every, self.count = every, min(count, len(pairs))
        self.drawn_at = -1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Draws when the number of optimiser steps is a multiple of `every`, and at the end."""
        assert isinstance(pl_module, LatentDiffusion)
        step = trainer.global_step
        last = step == trainer.max_steps
        if self.count and step != self.drawn_at and step > 0 and (step % self.every == 0 or last):
            self.drawn_at = step
            self.draw(trainer, pl_module, step)

    @rank_zero_only
    def draw(self, trainer: lightning.Trainer, module: LatentDiffusion, step: int) -> None:
        """Draws one grid: a row of source, target and sample for each item."""
        samples = [self.pairs[index] for index in range(self.count)]
        modes = [(part, part.training) for part in module.parts if part is not None]
        pipeline = LegoPipeline.from_parts(module.parts, self.sampling.scheduler)
        items = self.pairs.sources[0].items[: self.count]
        generators = [item_generator(self.sampling.seed, item.clip, item.id) for item in items]
        stacked = stack(samples, module.device, self.pairs.visions)
        with module.ema.applied(module.trained()), pipeline.quiet():
            drawn: Tensor = pipeline(
                stacked["source"],
                [sample["prompt"] for sample in samples],
                stacked.get("vllm_image"),
                stacked.get("vllm_text"),
                generator=generators,
                output_type="pt",
                check_finite=False,
                **self.sampling.arguments,
            ).images
        for part, training in modes:
            part.train(training)
        bad = [
            sample["item"] for sample, frame in zip(samples, drawn, strict=True) if not frame.isfinite().all()
        ]
        if bad:
            log.error("grid of step %d not drawn: %s not finite", step, ", ".join(bad))
            return
        captions = [f"{sample['item']}: {sample['prompt']}" for sample in samples]
        picture = grid_of([stacked["source"], stacked["target"], drawn], captions)
        try:
            with atomic_open(self.folder / f"step_{step:07d}.png") as file:
                file.write(encoded(picture, "PNG"))
        except (OSError, UserError) as error:
            # The other processes go on; so must this one.
            log.error("%s: grid of step %d not written (%s)", self.folder, step, error)
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_image(
                "source | target | sample", np.array(picture), step, dataformats="HWC"
            )
            trainer.logger.experiment.add_text("texts", "  \n".join(captions), step)
