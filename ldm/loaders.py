"""The Lightning data module of stage 2: splits, order of items, batches."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import CLIPTokenizer

from ldm.architecture import Parts
from ldm.cache import CachedPairs, build_cache
from ldm.config import TrainConfig
from ldm.data import EgoGenPairs, Sample


class PairsModule(lightning.LightningDataModule):
    """Train and val splits as the configuration says.

    Args:
        config: the run's settings.
        parts: the networks, for the cache of latents.
        tokenizer: CLIP's, likewise.
    """

    def __init__(self, config: TrainConfig, parts: Parts, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.config, self.parts, self.tokenizer = config, parts, tokenizer
        width = config.model.architecture.llm_width if config.model.vllm_features else None
        self.pairs = {split: EgoGenPairs(config.data, split, width) for split in ("train", "val")}

    def prepare_data(self) -> None:
        """Reads every file once, then builds the caches; on one process only."""
        for pairs in self.pairs.values():
            pairs.check()
            if self.config.data.cache_latents:
                build_cache(pairs, self.parts, self.tokenizer, Path(self.config.model.start))

    def dataset(self, split: str) -> Dataset[Sample]:
        """One split, from the cache where there is one."""
        pairs = self.pairs[split]
        if not self.config.data.cache_latents:
            return pairs
        return CachedPairs(
            pairs, build_cache(pairs, self.parts, self.tokenizer, Path(self.config.model.start))
        )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled by (seed, epoch), whole batches."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """In file order."""
        return self.loader("val", shuffle=False)

    def loader(self, split: str, shuffle: bool) -> DataLoader[Sample]:
        """A loader over this process's share of a split."""
        dataset, data = self.dataset(split), self.config.data
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler: DistributedSampler[Sample] = DistributedSampler(
            dataset, world, rank, shuffle=shuffle, seed=self.config.trainer.seed, drop_last=shuffle
        )
        return DataLoader(
            dataset,
            batch_size=data.batch_size,
            sampler=sampler,
            num_workers=data.workers,
            drop_last=shuffle and len(sampler) >= data.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=data.workers > 0,
        )
