"""A pen for Pillow that draws in frame heights, in frames that can be moved, turned and mirrored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.ImageDraw import ImageDraw

from egogen.toy.palette import RGB

Point = tuple[float, float]

ARC_STEPS = 20
CIRCLE: tuple[Point, ...] = tuple(
    (math.cos(2 * math.pi * step / ARC_STEPS), math.sin(2 * math.pi * step / ARC_STEPS))
    for step in range(ARC_STEPS)
)


@dataclass(frozen=True)
class Pen:
    """Maps (x, y) to pixels (xx x + xy y + x0, yx x + yy y + y0) and draws there."""

    draw: ImageDraw
    xx: float
    xy: float
    yx: float
    yy: float
    x0: float
    y0: float

    def at(self, x: float, y: float, size: float = 1.0, angle: float = 0.0, mirror: bool = False) -> Pen:
        """A pen whose origin is (x, y), in units of `size`, turned clockwise by `angle` radians.

        `mirror` swaps left and right before turning.
        """
        cos, sin = math.cos(angle) * size, math.sin(angle) * size
        flip = -1.0 if mirror else 1.0
        return Pen(
            self.draw,
            (self.xx * cos + self.xy * sin) * flip,
            self.xy * cos - self.xx * sin,
            (self.yx * cos + self.yy * sin) * flip,
            self.yy * cos - self.yx * sin,
            self.xx * x + self.xy * y + self.x0,
            self.yx * x + self.yy * y + self.y0,
        )

    def polygon(self, points: Sequence[Point], fill: RGB) -> None:
        """Fills a polygon."""
        xx, xy, yx, yy, x0, y0 = self.xx, self.xy, self.yx, self.yy, self.x0, self.y0
        self.draw.polygon([(xx * x + xy * y + x0, yx * x + yy * y + y0) for x, y in points], fill=fill)

    def disc(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """Fills an ellipse."""
        self.polygon([(x + rx * cos, y + ry * sin) for cos, sin in CIRCLE], fill)

    def stroke(self, start: Point, end: Point, width: float, fill: RGB) -> None:
        """Draws a straight stroke with round ends."""
        (ax, ay), (bx, by), half = start, end, width / 2
        turn = math.atan2(by - ay, bx - ax)
        quarter = ARC_STEPS // 2
        arc = [turn + math.pi / 2 + math.pi * step / quarter for step in range(quarter + 1)]
        back = [(ax + half * math.cos(a), ay + half * math.sin(a)) for a in arc]
        front = [(bx - half * math.cos(a), by - half * math.sin(a)) for a in arc]
        self.polygon([*back, *front], fill)

    def bar(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        """Fills a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)
