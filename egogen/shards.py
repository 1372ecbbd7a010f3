"""Which part of the work is mine: `i/n` shards, shards that are claimed, the published chunks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from egogen.errors import UserError

Item = TypeVar("Item")
AUTO, AUTO_SHARDS, MOST_SHARDS = "auto", 64, 100_000
SHARD = "i/n: every n-th item from the i-th; auto or auto/n: one of n after the other, as processes are free"


class Shard(NamedTuple):
    """One of `total` shards, from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @property
    def name(self) -> str:
        """As part of a file's name."""
        return f"{self.number}_of_{self.total}"

    def within(self, other: Shard) -> Shard:
        """This shard of another shard, as one of all shards of all."""
        return Shard((other.number - 1) * self.total + self.number, other.total * self.total)


WHOLE = Shard(1, 1)


class Process(NamedTuple):
    """This process among those of a launcher such as torchrun or srun; counted from 0."""

    rank: int
    local_rank: int
    world_size: int


# Who may have started this process beside others, and the variables that say so: its rank, that on its
# machine, their number. torchrun and mpirun may run below srun, so they come first.
LAUNCHERS = {
    "torchrun": ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpiexec": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
}
ALONE = Process(0, 0, 1)


def launched() -> tuple[str, Process]:
    """The launcher that started this process beside others, and which of them it is; "" if it is alone.

    A shell that `srun --pty` opened is alone, and so is a batch script: srun starts the tasks.

    Raises:
        UserError: the launcher's variables contradict each other.
    """
    for launcher, names in LAUNCHERS.items():
        rank, local_rank, count = (variable(name) for name in names)
        if launcher == "torchrun" and rank is None and count in (None, 1):
            continue
        if launcher != "torchrun" and None in (rank, local_rank, count):
            continue
        if launcher == "srun" and "SLURM_PTY_PORT" in os.environ:
            continue
        if rank is None or count is None or rank >= count:
            said = " and ".join(f"{name}={os.environ.get(name)}" for name in (names[0], names[2]))
            raise UserError(
                f"{said} in the environment do not belong together; start by {launcher}, or unset them"
            )
        if count > 1 or launcher == "torchrun":
            return launcher, Process(rank, local_rank or 0, count)
    return "", ALONE


def variable(name: str) -> int | None:
    """A whole number of the environment; None where it is not set.

    Raises:
        UserError: it is none.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not is_number(text):
        raise UserError(f"{name}={text[:80]!r} in the environment: expected a whole number from 0; unset it")
    return int(text)


def process(share_is_named: bool = False) -> Process:
    """Which process this is among those that share the work.

    Args:
        share_is_named: a flag names this process's share. torchrun's processes share that among them; the
            tasks of others each have a command of their own, and their own flags.
    """
    launcher, found = launched()
    return found if launcher == "torchrun" or not share_is_named else found._replace(rank=0, world_size=1)


def parse_shard(text: str) -> Shard:
    """Reads `i/n`, counted from 1: `2/3` is the second of three shards.

    Raises:
        UserError: the text is not of that form, or names too many shards.
    """
    index, _, count = text.partition("/")
    if is_number(index) and is_number(count) and 1 <= int(index) <= int(count) <= MOST_SHARDS:
        return Shard(int(index), int(count))
    raise UserError(
        f"--shard {text[:40]!r}: expected i/n with 1 <= i <= n <= {MOST_SHARDS}, such as 1/4, or auto"
    )


def is_number(text: str) -> bool:
    """Whether a text is a whole number of a length that can be."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def parse_auto(text: str | None) -> int | None:
    """Reads `auto` or `auto/n`: how many shards processes are to claim; None for other words.

    Raises:
        UserError: n is no number of shards.
    """
    word, slash, count = (text or "").partition("/")
    if word != AUTO:
        return None
    if not slash:
        return AUTO_SHARDS
    if is_number(count) and 1 <= int(count) <= MOST_SHARDS:
        return int(count)
    raise UserError(f"--shard {text!r}: expected auto, or auto/n with n from 1 to {MOST_SHARDS}")


def take_shard(items: Sequence[Item], index: int, count: int) -> Sequence[Item]:
    """Every count-th item, starting at the index-th (from 1): shards of nearly equal size."""
    return items[index - 1 :: count]


def take_chunk(items: Sequence[Item], index: int, count: int) -> Sequence[Item]:
    """The published split: contiguous runs of ceil(len / count) items, from 1; late ones may be empty.

    Raises:
        UserError: the index lies outside 1 .. count, or the count is not above 0.
    """
    if count < 1:
        raise UserError(f"{count} chunks: expected at least 1")
    if not 1 <= index <= count:
        raise UserError(f"chunk index {index} of {count}: expected 1 to {count}, counted from 1")
    size = math.ceil(len(items) / count)
    return items[(index - 1) * size : index * size]
