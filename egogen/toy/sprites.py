"""How each object looks. Sprites fill about -0.5 .. 0.5 in both directions; handles point to the right."""

from __future__ import annotations

from collections.abc import Callable

from egogen.toy.palette import FLESH, INSIDE, PAPER, RGB, STEEL, WATER, shade
from egogen.toy.pen import Pen

STEM: RGB = (70, 60, 40)


def draw_cup(pen: Pen, colour: RGB) -> None:
    """A mug with a ring for a handle."""
    pen.disc(0.34, 0.06, 0.20, 0.22, shade(colour, 0.75))
    pen.disc(0.34, 0.06, 0.10, 0.12, INSIDE)
    pen.polygon([(-0.38, -0.32), (0.32, -0.32), (0.26, 0.40), (-0.32, 0.40)], colour)
    pen.disc(-0.03, 0.40, 0.29, 0.10, colour)
    pen.disc(-0.03, -0.32, 0.35, 0.15, shade(colour, 1.3))
    pen.disc(-0.03, -0.31, 0.27, 0.10, INSIDE)


def draw_bowl(pen: Pen, colour: RGB) -> None:
    """A half sphere with a wide dark opening."""
    draw_bowl_front(pen, colour)
    pen.disc(0.0, -0.12, 0.50, 0.22, shade(colour, 1.3))
    pen.disc(0.0, -0.11, 0.42, 0.16, INSIDE)


def draw_bowl_front(pen: Pen, colour: RGB) -> None:
    """What of a bowl lies before its content."""
    pen.polygon(
        [(-0.50, -0.10), (-0.44, 0.14), (-0.24, 0.36), (0.24, 0.36), (0.44, 0.14), (0.50, -0.10)], colour
    )
    pen.bar(-0.22, 0.32, 0.22, 0.42, shade(colour, 0.75))


def draw_plate(pen: Pen, colour: RGB) -> None:
    """Flat rings."""
    pen.disc(0.0, 0.06, 0.54, 0.36, shade(colour, 0.75))
    pen.disc(0.0, 0.02, 0.54, 0.36, colour)
    pen.disc(0.0, 0.02, 0.36, 0.22, shade(colour, 1.45))
    pen.disc(0.0, 0.03, 0.32, 0.19, colour)


def draw_knife(pen: Pen, colour: RGB) -> None:
    """A steel blade to the left, a coloured handle to the right."""
    pen.polygon([(-0.58, 0.02), (-0.46, -0.14), (0.06, -0.14), (0.06, 0.10), (-0.40, 0.12)], STEEL)
    pen.polygon([(-0.58, 0.02), (0.06, 0.04), (0.06, 0.10), (-0.40, 0.12)], shade(STEEL, 0.7))
    pen.stroke((0.12, -0.01), (0.48, -0.01), 0.26, colour)
    pen.disc(0.20, -0.01, 0.035, 0.035, shade(colour, 0.6))
    pen.disc(0.42, -0.01, 0.035, 0.035, shade(colour, 0.6))


def draw_sponge(pen: Pen, colour: RGB) -> None:
    """A block with holes."""
    pen.bar(-0.46, -0.10, 0.46, 0.32, shade(colour, 0.72))
    pen.bar(-0.46, -0.28, 0.46, 0.16, colour)
    for x, y in ((-0.30, -0.16), (-0.08, 0.02), (0.14, -0.17), (0.32, 0.03), (-0.32, 0.06)):
        pen.disc(x, y, 0.05, 0.04, shade(colour, 0.6))


def draw_bottle(pen: Pen, colour: RGB) -> None:
    """A tall body with a label, a neck and a dark cap."""
    draw_open_bottle(pen, colour)
    pen.bar(-0.15, -0.58, 0.15, -0.38, INSIDE)


def draw_open_bottle(pen: Pen, colour: RGB) -> None:
    """A bottle without its cap."""
    pen.bar(-0.11, -0.46, 0.11, -0.12, shade(colour, 1.2))
    pen.polygon(
        [(-0.11, -0.24), (0.11, -0.24), (0.28, -0.02), (0.28, 0.46), (-0.28, 0.46), (-0.28, -0.02)], colour
    )
    pen.bar(-0.28, 0.10, 0.28, 0.30, shade(colour, 1.6))
    pen.disc(0.0, -0.46, 0.11, 0.05, INSIDE)


def draw_cap(pen: Pen, _colour: RGB) -> None:
    """A bottle's cap."""
    pen.bar(-0.15, -0.10, 0.15, 0.10, INSIDE)


def draw_pan(pen: Pen, colour: RGB) -> None:
    """A round dark inside in a coloured rim, with a long handle."""
    pen.stroke((0.22, 0.10), (0.60, 0.24), 0.15, INSIDE)
    pen.disc(-0.10, 0.05, 0.45, 0.38, shade(colour, 0.75))
    pen.disc(-0.10, 0.00, 0.45, 0.37, colour)
    pen.disc(-0.10, 0.00, 0.33, 0.25, INSIDE)


def draw_closed_pan(pen: Pen, colour: RGB) -> None:
    """A pan under its lid."""
    draw_pan(pen, colour)
    draw_lid(pen.at(-0.10, -0.06), colour)


def draw_pan_front(pen: Pen, colour: RGB) -> None:
    """What of a pan lies before its content."""
    pen.polygon([(-0.55, 0.05), (0.35, 0.05), (0.26, 0.32), (-0.10, 0.43), (-0.46, 0.32)], colour)


def draw_lid(pen: Pen, colour: RGB) -> None:
    """A pan's lid: a dome with a dark knob."""
    pen.disc(0.0, 0.04, 0.42, 0.32, shade(colour, 0.8))
    pen.disc(0.0, -0.02, 0.40, 0.28, shade(colour, 1.3))
    pen.disc(0.0, -0.08, 0.11, 0.10, INSIDE)


def draw_apple(pen: Pen, colour: RGB) -> None:
    """Two lobes, a stem and a leaf."""
    pen.disc(-0.13, 0.06, 0.28, 0.36, colour)
    pen.disc(0.13, 0.06, 0.28, 0.36, colour)
    pen.disc(-0.18, -0.06, 0.09, 0.11, shade(colour, 1.5))
    pen.stroke((0.0, -0.20), (0.06, -0.42), 0.08, STEM)
    pen.polygon([(0.06, -0.36), (0.22, -0.48), (0.34, -0.38), (0.18, -0.30)], (60, 110, 40))


def draw_halves(pen: Pen, colour: RGB) -> None:
    """An apple cut in two, with pale flesh."""
    for x in (-0.29, 0.29):
        pen.disc(x, 0.04, 0.29, 0.40, colour)
        pen.disc(x, 0.04, 0.18, 0.27, FLESH)
        pen.disc(x, 0.06, 0.03, 0.07, STEM)


def draw_open_book(pen: Pen, colour: RGB) -> None:
    """Two white pages in a coloured cover."""
    pen.polygon(
        [(-0.58, -0.38), (0.0, -0.32), (0.58, -0.38), (0.58, 0.40), (0.0, 0.46), (-0.58, 0.40)], colour
    )
    pen.polygon([(-0.46, -0.30), (-0.03, -0.24), (-0.03, 0.32), (-0.46, 0.26)], PAPER)
    pen.polygon([(0.46, -0.30), (0.03, -0.24), (0.03, 0.32), (0.46, 0.26)], shade(PAPER, 0.9))
    pen.bar(0.12, -0.14, 0.38, 0.12, colour)
    for y in (-0.10, 0.04):
        pen.stroke((-0.36, y - 0.03), (-0.14, y), 0.05, (150, 150, 155))


def draw_book(pen: Pen, colour: RGB) -> None:
    """A cover with a title bar above the page edge."""
    pen.bar(-0.34, 0.28, 0.40, 0.46, PAPER)
    pen.bar(-0.40, -0.46, 0.34, 0.38, colour)
    pen.bar(-0.40, -0.46, -0.28, 0.46, shade(colour, 0.65))
    pen.bar(-0.16, -0.30, 0.22, -0.16, shade(colour, 1.6))


def draw_box(pen: Pen, colour: RGB) -> None:
    """A carton with a tape on its lid."""
    draw_box_front(pen, colour)
    pen.polygon([(-0.44, -0.06), (-0.34, -0.40), (0.34, -0.40), (0.44, -0.06)], colour)
    pen.polygon([(-0.08, -0.06), (-0.06, -0.40), (0.06, -0.40), (0.08, -0.06)], PAPER)
    pen.bar(-0.08, -0.06, 0.08, 0.08, PAPER)


def draw_open_box(pen: Pen, colour: RGB) -> None:
    """A carton with a dark inside and its flaps up."""
    draw_box_front(pen, colour)
    pen.polygon([(-0.34, -0.34), (0.34, -0.34), (0.28, -0.56), (-0.28, -0.56)], colour)
    pen.polygon([(-0.44, -0.06), (-0.34, -0.34), (0.34, -0.34), (0.44, -0.06)], INSIDE)
    pen.polygon([(-0.44, -0.06), (-0.34, -0.34), (-0.56, -0.42), (-0.62, -0.16)], shade(colour, 1.2))
    pen.polygon([(0.44, -0.06), (0.34, -0.34), (0.56, -0.42), (0.62, -0.16)], shade(colour, 1.2))


def draw_box_front(pen: Pen, colour: RGB) -> None:
    """What of a box lies before its content."""
    pen.bar(-0.44, -0.06, 0.44, 0.42, shade(colour, 0.8))


def draw_cup_front(pen: Pen, colour: RGB) -> None:
    """What of a cup lies before its content."""
    pen.polygon([(-0.38, -0.24), (0.32, -0.24), (0.26, 0.40), (-0.32, 0.40)], colour)


def draw_shadow(pen: Pen, colour: RGB) -> None:
    """A patch of darker table."""
    pen.disc(0.0, 0.40, 0.46, 0.15, colour)


def draw_stream(pen: Pen, _colour: RGB) -> None:
    """Falling water."""
    pen.stroke((0.0, -0.26), (0.0, 0.28), 0.34, shade(WATER, 0.8))
    pen.stroke((0.0, -0.24), (0.0, 0.26), 0.24, WATER)


def draw_streak(pen: Pen, colour: RGB) -> None:
    """A wet trace across the table, one place long."""
    for y, reach in ((-0.20, 0.58), (0.0, 0.66), (0.20, 0.56)):
        pen.stroke((-reach, y), (reach, y), 0.17, colour)


SPRITES: dict[str, Callable[[Pen, RGB], None]] = {
    "cup": draw_cup,
    "bowl": draw_bowl,
    "plate": draw_plate,
    "knife": draw_knife,
    "sponge": draw_sponge,
    "bottle": draw_bottle,
    "pan": draw_pan,
    "apple": draw_apple,
    "book": draw_book,
    "box": draw_box,
    "open bottle": draw_open_bottle,
    "closed pan": draw_closed_pan,
    "cut apple": draw_halves,
    "open book": draw_open_book,
    "open box": draw_open_box,
    "cap": draw_cap,
    "lid": draw_lid,
    "shadow": draw_shadow,
    "stream": draw_stream,
    "streak": draw_streak,
    "bowl front": draw_bowl_front,
    "pan front": draw_pan_front,
    "box front": draw_box_front,
    "cup front": draw_cup_front,
}
