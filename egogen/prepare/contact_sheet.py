"""A contact sheet: some pairs of a data set, input beside target, above their labels."""

from __future__ import annotations

from PIL import Image

from egogen.frames import read_frame
from egogen.layout import Layout
from egogen.prepare.pair_plan import PairPlan
from egogen.seeds import item_seed
from egogen.sheets import sheet, tile

PAIRS = 18


def contact_sheet(plan: PairPlan, layout: Layout) -> Image.Image | None:
    """Draws pairs chosen by their ids: always the same ones of a data set, from anywhere in it."""
    pairs = sorted(plan.kept(), key=lambda pair: item_seed(0, *pair.key))[:PAIRS]
    tiles = [
        tile([read_frame(path) for path in pair.paths(layout)[:2]], f"{pair.split}: {pair.text}")
        for pair in pairs
    ]
    return sheet(tiles) if tiles else None
