"""Randomness keyed by item: the same item gets the same draws in any batch, shard, order or restart."""

from __future__ import annotations

import hashlib
from argparse import ArgumentTypeError

MOST_SEED = 2**32 - 1  # of what a person gives: what torch, NumPy and Lightning all take


def read_seed(text: str) -> int:
    """Reads a seed that a person gives, as a flag or in a table.

    Raises:
        ArgumentTypeError: it is none, from 0 to `MOST_SEED`.
    """
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= MOST_SEED:
        raise ArgumentTypeError(f"got {text[:40]!r}, allowed: a whole number from 0 to {MOST_SEED}")
    return seed


def item_seed(run_seed: int, *item_id: str) -> int:
    """Seed for one item's draws, in 0 .. 2**63 - 1.

    Args:
        run_seed: the seed the user gave.
        item_id: what names the item, such as clip id and action id.
    """
    digest = hashlib.sha256("\0".join([str(run_seed), *item_id]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
