"""The Lightning data module of stage 2: splits, order of items, batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset
from transformers import CLIPTokenizer

from egogen.errors import check
from egogen.published import SPLITS
from ldm.config.sections import TrainConfig
from ldm.data.image_features import Batch, complete
from ldm.data.latents import CachedLatents, build_cache
from ldm.data.order import StepOrder, steps_per_epoch
from ldm.data.pairs import Chance, EgoGenPairs, Sample, SplitFiles
from ldm.networks.architecture import Parts
from ldm.networks.text import say_lost


class PairsModule(lightning.LightningDataModule):
    """Train and val splits of the run's data sets; all but the settings are for the cache of latents."""

    def __init__(
        self, config: TrainConfig, parts: Parts, tokenizer: CLIPTokenizer, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        # One process of all nodes checks files and builds caches: RUN_ROOT is shared between them.
        self.prepare_data_per_node = False
        self.config, self.parts, self.tokenizer, self.device = config, parts, tokenizer, device
        width = config.model.shape.llm_width if config.model.vllm_features else None
        self.files: dict[str, list[SplitFiles]] = {
            split: [
                SplitFiles(data, split, width, config.features.store, config.model.streams)
                for data in config.all_data()
            ]
            for split in SPLITS
        }
        sources = [files for split in SPLITS for files in self.files[split]]
        self.visions = {key: vision for files in sources for key, vision in files.visions.items()}

    @property
    def pairs(self) -> int:
        """Training pairs of all data sets."""
        return sum(len(files.items) for files in self.files["train"])

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run.

        Raises:
            UserError: the data hold less than one effective batch, or training would not end.
        """
        settings = self.config.trainer
        by_epochs = settings.max_epochs * self.steps_per_epoch
        limits = [limit for limit in (settings.max_steps, by_epochs) if limit > 0]
        check("trainer.max_epochs", settings.max_epochs, "at least 1, or trainer.max_steps", bool(limits))
        return min(limits)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over the training pairs."""
        return steps_per_epoch(self.pairs, self.config.trainer.effective_batch)

    def prepare_data(self) -> None:
        """Reads every file once, then builds the caches; on one process only."""
        for split in SPLITS:
            for files in self.files[split]:
                files.check()
                say_lost(self.tokenizer, map(files.prompt, files.items), f"{files.annotations.source}")
            self.latents(split)

    def latents(self, split: str) -> list[CachedLatents]:
        """The latents of each data set, encoded if need be; none where the frames are read at every step."""
        if not self.config.data.cache_latents:
            return []
        start = Path(self.config.model.start)
        return [
            CachedLatents(build_cache(files, self.parts, self.tokenizer, start, self.device))
            for files in self.files[split]
        ]

    def dataset(self, split: str) -> EgoGenPairs:
        """A split of all data sets, with the draws that belong to its samples."""
        data, seed = self.config.data, self.config.trainer.seed
        side = data.resolution // self.config.model.shape.vae.factor
        return EgoGenPairs(
            self.files[split], latents=self.latents(split), chance=Chance(seed, side, data.flip)
        )

    def train_dataloader(self) -> DataLoader[Sample]:
        """This process's batches from the trainer's step on, until the last step."""
        dataset, settings, trainer = self.dataset("train"), self.config.trainer, self.trainer
        world, rank, start = (
            (trainer.world_size, trainer.global_rank, trainer.global_step) if trainer else (1, 0, 0)
        )
        batch, steps = self.config.data.batch_size, self.total_steps
        own = {"seed": settings.seed, "rank": rank, "world": world, "start": start}
        order = StepOrder(len(dataset), settings.effective_batch, batch, steps, **own)
        return TimedLoader(dataset, batch_sampler=order, **self.loading())

    def val_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the items that are validated, in file order."""
        whole, trainer = self.dataset("val"), self.trainer
        dataset = Subset(whole, spread(len(whole), self.config.trainer.validate_items))
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler: DistributedSampler[Sample] = DistributedSampler(dataset, world, rank, shuffle=False)
        return DataLoader(dataset, sampler=sampler, batch_size=self.config.data.batch_size, **self.loading())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002 - Lightning's signature
        """Computes image features where the store leaves that to the device."""
        return complete(batch, self.visions)

    def loading(self) -> dict[str, Any]:
        """How batches are fetched."""
        data = self.config.data
        return {
            "num_workers": data.workers,
            "pin_memory": data.pin_memory and torch.cuda.is_available(),
            "persistent_workers": data.persistent_workers and data.workers > 0,
        }


def spread(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly spread; all of them for 0."""
    taken = min(most or count, count)
    return [index * count // taken for index in range(taken)]


class TimedLoader(DataLoader[Sample]):
    """A loader that adds up, in `waited`, the seconds its user has waited for batches."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        began = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - began
            yield batch
            began = time.perf_counter()
