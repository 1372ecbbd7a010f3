"""What a toy scene is: objects at named places, a table, and two forearms. Drawn from one seed.

Lengths are in frame heights: x from the centre to the right, y from the top down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from egogen.toy.palette import COLOURS, RGB, SKINS, SLEEVES, TABLES, TableTop

Side = Literal["left", "right"]
State = Literal["closed", "open", "bare"]

SIGN: dict[Side, int] = {"left": -1, "right": 1}
OTHER: dict[Side, Side] = {"left": "right", "right": "left"}

COLUMNS = ("left", "centre", "right")
ROWS = ("far", "middle", "near")
COLUMN_X = (-0.33, 0.0, 0.33)
ROW_Y = (0.16, 0.37, 0.58)
JITTER = 0.01
# Resting hands: the palm's place; the hand further forward acts on objects in the centre column.
REST_X = 0.45
REST_Y = 0.92
FORWARD_Y = 0.83

COUNTS = (3, 3, 3, 4, 4, 5, 6)  # of objects, as often as they occur here
# Skin must stand out from table and sleeve, or nobody could tell where a hand is.
MIN_SKIN_CONTRAST = 62.0
MIN_SLEEVE_CONTRAST = 45.0

KINDS = ("cup", "bowl", "plate", "knife", "sponge", "bottle", "pan", "apple", "book", "box")
# First the usual state, then the one that some scenes start with.
STATES: dict[str, tuple[State, ...]] = {
    "box": ("closed", "open"),
    "book": ("closed", "open"),
    "pan": ("bare", "closed"),
}
APPLE_COLOURS = ("red", "green", "yellow")


class Place(NamedTuple):
    """One of the 3 x 3 places: column 0 left to 2 right, row 0 far to 2 near."""

    column: int
    row: int

    @property
    def name(self) -> str:
        """Such as `near left`."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"

    @property
    def centre(self) -> tuple[float, float]:
        """Where the place is, in frame heights."""
        return COLUMN_X[self.column], ROW_Y[self.row]


PLACES = tuple(Place(column, row) for row in range(3) for column in range(3))


class Role(NamedTuple):
    """An object that an action needs, and where."""

    kind: str
    place: Place
    state: State = "closed"


@dataclass(frozen=True)
class Thing:
    """An object on the table; `handle` is the side that its handle points to."""

    kind: str
    colour: str
    place: Place
    x: float
    y: float
    state: State
    handle: Side

    @property
    def name(self) -> str:
        """Such as `red cup`."""
        return f"{self.colour} {self.kind}"

    @property
    def rgb(self) -> RGB:
        """The object's colour."""
        return COLOURS[self.colour]


@dataclass(frozen=True)
class Scene:
    """A table with 3 to 6 objects of different kinds and colours; the first ones are the action's roles."""

    table: TableTop
    texture_seed: int
    skin: RGB
    sleeve: RGB
    forward: Side
    things: tuple[Thing, ...]


def hand_for(place: Place, forward: Side) -> Side:
    """The hand that acts at a place: that of its column; in the centre the one further forward."""
    sides: tuple[Side, Side, Side] = ("left", forward, "right")
    return sides[place.column]


def compose(rng: Random, forward: Side, roles: Sequence[Role], reserved: Iterable[Place]) -> Scene:
    """Sets the roles on a table and adds other objects at other free places; reserved ones stay empty."""
    skin = rng.choice(SKINS)
    table = rng.choice([table for table in TABLES if math.dist(table.tone, skin) >= MIN_SKIN_CONTRAST])
    sleeve = rng.choice(
        [
            colour
            for colour in SLEEVES
            if math.dist(colour, skin) >= MIN_SKIN_CONTRAST
            and math.dist(colour, table.tone) >= MIN_SLEEVE_CONTRAST
        ]
    )
    cast = [*roles, *extras(rng, roles, reserved)]
    colours = list(COLOURS)
    things = []
    for role in cast:
        colour = rng.choice([c for c in colours if role.kind != "apple" or c in APPLE_COLOURS] or colours)
        colours.remove(colour)
        x, y = role.place.centre
        x, y = x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)
        things.append(Thing(role.kind, colour, role.place, x, y, role.state, hand_for(role.place, forward)))
    tone = vary(rng, table.tone, 6)
    return Scene(
        TableTop(table.texture, tone),
        rng.getrandbits(32),
        vary(rng, skin, 5),
        vary(rng, sleeve, 5),
        forward,
        tuple(things),
    )


def extras(rng: Random, roles: Sequence[Role], reserved: Iterable[Place]) -> list[Role]:
    """Further objects, of kinds that the roles do not have, at places that nothing needs."""
    count = rng.choice(COUNTS) - len(roles)
    taken = {role.place for role in roles} | set(reserved)
    kinds = [kind for kind in KINDS if kind not in {role.kind for role in roles}]
    places = rng.sample([place for place in PLACES if place not in taken], count)
    # An apple first: only it is picky about its colour.
    chosen = sorted(rng.sample(kinds, count), key=lambda kind: kind != "apple")
    return [
        Role(kind, place, STATES.get(kind, ("closed",))[rng.random() < 0.3 and kind in STATES])
        for kind, place in zip(chosen, places, strict=True)
    ]


def vary(rng: Random, colour: RGB, reach: int) -> RGB:
    """A colour with each channel moved by at most `reach`."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-reach, reach))) for channel in colour)
    return red, green, blue
