"""Which part of the work is mine: `i/n` shards and the published `--num-chunks/--chunk-idx` ranges."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from egogen.errors import UserError

Item = TypeVar("Item")


class Process(NamedTuple):
    """This process among those of a launcher such as torchrun; counted from 0."""

    rank: int
    local_rank: int
    world_size: int


def process() -> Process:
    """Which process this is, by the environment that torchrun sets; alone without it."""
    rank, local_rank, world_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
    )
    return Process(rank, local_rank, world_size)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `i/n`, counted from 1: `2/3` is the second of three shards.

    Returns:
        (i, n) with 1 <= i <= n.

    Raises:
        UserError: the text is not of that form.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise UserError(f"--shard {text!r}: expected i/n with 1 <= i <= n, such as 1/4")


def take_shard(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Every count-th item, starting at the index-th (from 1): shards of nearly equal size."""
    return list(items[index - 1 :: count])


def take_chunk(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """The published split: contiguous runs of ceil(len / count) items, from 1; late ones may be empty.

    Raises:
        UserError: the index lies outside 1 .. count, or the count is not above 0.
    """
    if count < 1:
        raise UserError(f"{count} chunks: expected at least 1")
    if not 1 <= index <= count:
        raise UserError(f"chunk index {index} of {count}: expected 1 to {count}, counted from 1")
    size = math.ceil(len(items) / count)
    return list(items[(index - 1) * size : index * size])
