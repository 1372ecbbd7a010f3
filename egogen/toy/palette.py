"""The toy world's colours: named object colours, skins, sleeves and tables that cannot be confused."""

from __future__ import annotations

from typing import Literal, NamedTuple

RGB = tuple[int, int, int]

# Saturated, and far from each other, from every skin and from every table.
COLOURS: dict[str, RGB] = {
    "red": (215, 30, 40),
    "orange": (255, 135, 0),
    "yellow": (252, 228, 40),
    "green": (30, 165, 60),
    "cyan": (0, 200, 210),
    "blue": (35, 75, 225),
    "purple": (135, 45, 190),
    "pink": (255, 95, 185),
}
SKINS: tuple[RGB, ...] = ((240, 198, 168), (208, 152, 114), (146, 96, 68), (94, 60, 44))
SLEEVES: tuple[RGB, ...] = ((32, 42, 92), (58, 58, 64), (92, 118, 146), (30, 78, 58), (78, 42, 84))

Texture = Literal["wood", "cloth", "stone"]


class TableTop(NamedTuple):
    """What lies under everything."""

    texture: Texture
    tone: RGB


TABLES: tuple[TableTop, ...] = (
    TableTop("wood", (180, 150, 112)),
    TableTop("wood", (112, 86, 66)),
    TableTop("wood", (168, 160, 150)),
    TableTop("cloth", (122, 136, 156)),
    TableTop("cloth", (140, 154, 132)),
    TableTop("cloth", (204, 198, 184)),
    TableTop("stone", (130, 132, 136)),
    TableTop("stone", (90, 96, 106)),
    TableTop("stone", (212, 212, 208)),
)

# Colours that are not an object's own.
INSIDE: RGB = (42, 40, 46)
STEEL: RGB = (222, 226, 232)
PAPER: RGB = (250, 250, 246)
FLESH: RGB = (255, 246, 205)
WATER: RGB = (150, 220, 255)


def mix(first: RGB, second: RGB) -> RGB:
    """Half of each: what a pixel on their border shows."""
    red, green, blue = ((one + other) // 2 for one, other in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: RGB, factor: float) -> RGB:
    """A colour made darker (factor below 1) or mixed with white (factor 1 to 2, 2 being white)."""
    if factor <= 1:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(channel + (255 - channel) * (factor - 1)) for channel in colour)
    return red, green, blue
