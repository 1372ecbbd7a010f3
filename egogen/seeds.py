"""Randomness keyed by item: the same item gets the same draws in any batch, shard, order or restart."""

from __future__ import annotations

import hashlib


def item_seed(run_seed: int, *item_id: str) -> int:
    """Seed for one item's draws, in 0 .. 2**63 - 1.

    Args:
        run_seed: the seed the user gave.
        item_id: what names the item, such as clip id and action id.
    """
    digest = hashlib.sha256("\0".join([str(run_seed), *item_id]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
