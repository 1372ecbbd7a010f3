"""A contact sheet: some pairs of a data set, input beside target, under their labels."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from egogen.frames import read_frame
from egogen.layout import Layout
from egogen.prepare.pair_plan import ActionPair, PairPlan
from egogen.seeds import item_seed

COLUMNS, PAIRS = 3, 18
HEIGHT, GAP, TEXT = 144, 8, 18
PAPER, INK = "white", "black"


def contact_sheet(plan: PairPlan, layout: Layout) -> Image.Image | None:
    """Draws pairs chosen by their ids: always the same ones of a data set, from anywhere in it."""
    pairs = sorted(plan.kept(), key=lambda pair: item_seed(0, *pair.key))[:PAIRS]
    if not pairs:
        return None
    tiles = [tile(pair, layout) for pair in pairs]
    columns = min(COLUMNS, len(tiles))
    wide, high = max(tile.width for tile in tiles), HEIGHT + TEXT
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    sheet = Image.new("RGB", (columns * (wide + GAP) + GAP, len(rows) * (high + GAP) + GAP), PAPER)
    for down, row in enumerate(rows):
        for across, part in enumerate(row):
            sheet.paste(part, (GAP + across * (wide + GAP), GAP + down * (high + GAP)))
    return sheet


def tile(pair: ActionPair, layout: Layout) -> Image.Image:
    """The two frames of a pair under its split and label."""
    frames = [read_frame(path) for path in pair.paths(layout)[:2]]
    frames = [frame.resize((round(frame.width * HEIGHT / frame.height), HEIGHT)) for frame in frames]
    width = sum(frame.width for frame in frames) + GAP // 2
    made = Image.new("RGB", (width, HEIGHT + TEXT), PAPER)
    font = ImageFont.load_default(TEXT - 5)
    text = shortened(f"{pair.split}: {pair.text}", font, width)
    ImageDraw.Draw(made).text((0, 0), text, INK, font)
    made.paste(frames[0], (0, TEXT))
    made.paste(frames[1], (width - frames[1].width, TEXT))
    return made


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A label on one line, cut to a width."""
    text = " ".join(text.split())
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
