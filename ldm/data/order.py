"""Which items make which optimiser step: an order that knows neither devices nor restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from egogen.errors import UserError
from egogen.seeds import item_seed


class Key(NamedTuple):
    """One item in one epoch; what a training data set is asked for."""

    row: int
    epoch: int


@dataclass(eq=False)
class StepOrder(Sampler[list[Key]]):
    """The batches of one process, from any optimiser step on.

    Step s takes the same items whatever the number of processes, the batch size and the restarts: each epoch
    is a permutation keyed by (seed, epoch), cut into whole effective batches; what is left over waits for
    another epoch's order.

    Raises:
        UserError: the data set is smaller than one effective batch.
    """

    items: int  # size of the data set
    effective: int  # items of an optimiser step, over all processes
    batch: int  # items of a batch, a divisor of `effective / world`
    steps: int  # optimiser steps of the whole run
    _: KW_ONLY
    seed: int  # of the run
    rank: int = 0  # this process
    world: int = 1  # number of processes
    start: int = 0  # optimiser steps that are done already

    def __post_init__(self) -> None:
        self.steps_per_epoch = steps_per_epoch(self.items, self.effective)

    def __len__(self) -> int:
        """Batches of the whole run, those before `start` included: Lightning counts them all."""
        return self.steps * (self.effective // (self.batch * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            order = permutation(self.items, self.seed, epoch)
            first = place * self.effective
            mine = order[first : first + self.effective][self.rank :: self.world]
            for begin in range(0, len(mine), self.batch):
                yield [Key(int(index), epoch) for index in mine[begin : begin + self.batch]]


def steps_per_epoch(items: int, effective: int) -> int:
    """Whole effective batches in one pass over the data.

    Raises:
        UserError: there is not one.
    """
    if items < effective:
        raise UserError(
            f"trainer.effective_batch: {effective}, but the data set has only {items} pairs; "
            f"use {items} or fewer"
        )
    return items // effective


@lru_cache(maxsize=2)
def permutation(items: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng(item_seed(seed, "order", str(epoch))).permutation(items)
