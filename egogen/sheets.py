"""Contact sheets: pictures side by side in tiles, a line of words below each; tiles in rows."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 3
HEIGHT, GAP, TEXT = 144, 8, 18
PAPER, INK = "white", "black"


def sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Lays out tiles, at least one, in rows of three."""
    columns = min(COLUMNS, len(tiles))
    wide, high = max(tile.width for tile in tiles), HEIGHT + TEXT
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    laid = Image.new("RGB", (columns * (wide + GAP) + GAP, len(rows) * (high + GAP) + GAP), PAPER)
    for down, row in enumerate(rows):
        for across, part in enumerate(row):
            laid.paste(part, (GAP + across * (wide + GAP), GAP + down * (high + GAP)))
    return laid


def tile(pictures: Sequence[Image.Image], text: str) -> Image.Image:
    """Pictures side by side, all of one height, above a line of words."""
    scaled = [picture.resize((across(picture), HEIGHT), Image.Resampling.LANCZOS) for picture in pictures]
    made = Image.new("RGB", (sum(each.width + GAP // 2 for each in scaled) - GAP // 2, HEIGHT + TEXT), PAPER)
    left = 0
    for each in scaled:
        made.paste(each, (left, 0))
        left += each.width + GAP // 2
    font = ImageFont.load_default(TEXT - 5)
    ImageDraw.Draw(made).text((0, HEIGHT), shortened(text, font, made.width), INK, font)
    return made


def across(picture: Image.Image) -> int:
    """A picture's width on a tile; a very wide or narrow one is squashed, or stretched, within bounds."""
    return min(max(round(picture.width * HEIGHT / picture.height), HEIGHT // 4), 3 * HEIGHT)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text on one line, cut to a width."""
    text = " ".join(text.split())
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
