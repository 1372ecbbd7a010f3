"""Pairs that no files stand behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from egogen.annotations import Item
from egogen.packed_frames import DrawnFrames
from ldm.metrics.frames.frame_names import FrameNames
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.frames.images import Header, Size
from ldm.metrics.frames.pair_table import FoundFrames, PairTable

NO_HASH = "00" * 32


def made_pairs(*items: Item, **more: Item) -> Pairs:
    """Pairs of 8 x 8 pixels; frames are named by the items' ids, or as `more` names them."""
    given = {item.id: item for item in items} | more
    formats = np.zeros(len(given), np.uint8)
    files = tuple(FoundFrames(DrawnFrames(Path(name)), formats) for name in ("drawn", "true"))
    table = PairTable([*given.values()], FrameNames(given), files)  # type: ignore[arg-type]  # two
    for _ in given:
        table.add(*[Header(Size(8, 8), "JPEG", NO_HASH)] * 2)
    return Pairs(table, ["JPEG"], Path("val.json"), Path("targets"))
