"""What a frame shows, as plain data between the story of an action and the renderer. In frame heights."""

from __future__ import annotations

from dataclasses import dataclass

from egogen.toy.palette import RGB
from egogen.toy.pen import Point
from egogen.toy.scene import Side

OBJECT_SIZE = 0.25
HAND_SIZE = 0.26


@dataclass(frozen=True)
class Sprite:
    """One drawing: `look` names it; `angle` is clockwise in radians; handles point to the side `handle`."""

    look: str
    colour: RGB
    x: float
    y: float
    size: float = OBJECT_SIZE
    angle: float = 0.0
    handle: Side = "right"


@dataclass(frozen=True)
class Hand:
    """A forearm from below that ends in a hand: palm at (x, y), fingers along `angle` (0 up, clockwise)."""

    side: Side
    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Picture:
    """Sprites on the table, then the hands, then what they hold; fingers are drawn over it."""

    table: tuple[Sprite, ...]
    hands: tuple[Hand, Hand]
    held: tuple[Sprite, ...] = ()
    shift: Point = (0.0, 0.0)


@dataclass(frozen=True)
class Area:
    """A rectangle: its centre and its half width and half height."""

    x: float
    y: float
    half_width: float
    half_height: float
