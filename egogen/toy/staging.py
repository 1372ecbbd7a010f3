"""How hands reach and where things are: the geometry that all actions share. In frame heights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from egogen.toy.palette import RGB, shade
from egogen.toy.pen import Point
from egogen.toy.picture import OBJECT_SIZE, Area, Hand, Picture, Sprite
from egogen.toy.scene import FORWARD_Y, OTHER, REST_X, REST_Y, SIGN, Place, Scene, Side, Thing, hand_for
from egogen.toy.sprites import SPRITES

# An object's coloured body: centre towards the handle and down, half width, half height, in object sizes.
BODIES = {
    "cup": (-0.03, 0.06, 0.33, 0.38),
    "bowl": (0.0, 0.05, 0.46, 0.33),
    "plate": (0.0, 0.02, 0.50, 0.33),
    "knife": (0.28, -0.01, 0.26, 0.13),
    "sponge": (0.0, 0.02, 0.45, 0.29),
    "bottle": (0.0, 0.12, 0.27, 0.34),
    "pan": (-0.10, 0.02, 0.44, 0.38),
    "apple": (0.0, 0.06, 0.38, 0.34),
    "book": (-0.03, -0.02, 0.38, 0.42),
    "box": (0.0, 0.02, 0.42, 0.40),
}
# Palm from the object's centre, towards the acting hand's side and down, in object sizes.
GRIPS = {
    "cup": (0.72, 0.32),
    "bowl": (0.78, 0.32),
    "plate": (0.82, 0.30),
    "knife": (0.92, 0.20),
    "sponge": (0.76, 0.34),
    "bottle": (0.64, 0.42),
    "pan": (0.90, 0.40),
    "apple": (0.70, 0.44),
    "book": (0.72, 0.42),
    "box": (0.76, 0.42),
}
LIFT_SCALE = 1.2


@dataclass(frozen=True)
class Mark:
    """A colour in an area that tells, in the frame after, that the object's state has changed."""

    what: str
    colour: RGB
    area: Area


@dataclass(frozen=True)
class Story:
    """One action in one scene.

    `partner` is the second object (the plate of "put apple on plate"), `goal` where the object goes, if it
    goes. Areas do not contain the camera's shift.
    """

    verb: str
    scene: Scene
    hand: Side
    before: Picture
    after: Picture
    area_before: Area
    area_after: Area
    goal: Place | None = None
    other_holds: bool = False
    marks: tuple[Mark, ...] = ()

    @property
    def subject(self) -> Thing:
        """The object that the action is done to."""
        return self.scene.things[0]

    @property
    def partner(self) -> Thing:
        """The second object of actions that have one."""
        return self.scene.things[1]


def look(kind: str, state: str) -> str:
    """The sprite of an object in a state."""
    special = f"{state} {kind}"
    return special if special in SPRITES else kind


def sprite_of(thing: Thing) -> Sprite:
    """A thing as it stands on the table."""
    return Sprite(look(thing.kind, thing.state), thing.rgb, thing.x, thing.y, handle=thing.handle)


def area_of(sprite: Sprite, kind: str) -> Area:
    """Where the coloured body of an upright object is."""
    dx, dy, width, height = (part * sprite.size for part in BODIES[kind])
    return Area(sprite.x + SIGN[sprite.handle] * dx, sprite.y + dy, width, height)


def rest(side: Side, forward: Side) -> Hand:
    """A hand that lies on the table's near edge."""
    return Hand(side, SIGN[side] * REST_X, FORWARD_Y if side == forward else REST_Y, -SIGN[side] * 0.25)


def reach(side: Side, x: float, y: float, towards: Point) -> Hand:
    """A hand at a place whose fingers point along a direction."""
    return Hand(side, x, y, math.atan2(towards[0], -towards[1]))


def grip(side: Side, kind: str, x: float, y: float, scale: float = 1.0) -> Hand:
    """The hand that holds an object from its own side."""
    sign = SIGN[side]
    across, down = (part * OBJECT_SIZE * scale for part in GRIPS[kind])
    return reach(side, x + sign * across, y + down, (-sign * 0.85, -0.55))


def across(place: Place, side: Side) -> Place:
    """The place next to this one, away from the side of the hand that acts here."""
    return Place(place.column - SIGN[side], place.row)


class Stage:
    """A scene with what every story needs from it; `shift` is the camera's in the frame after."""

    def __init__(self, verb: str, scene: Scene, shift: Point) -> None:
        self.verb, self.scene, self.shift = verb, scene, shift
        self.subject, self.partner = scene.things[:2]
        self.hand: Side = hand_for(self.subject.place, scene.forward)
        self.sign = SIGN[self.hand]
        self.resting = rest(self.hand, scene.forward)
        self.other = rest(OTHER[self.hand], scene.forward)

    def shadow(self, x: float, y: float) -> Sprite:
        """The shadow of something on the table."""
        return Sprite("shadow", shade(self.scene.table.tone, 0.78), x, y)

    def table(self, *absent: Thing, under: tuple[Sprite, ...] = ()) -> tuple[Sprite, ...]:
        """Shadows, what lies under things, then all things but some, from far to near."""
        things = sorted(
            (thing for thing in self.scene.things if thing not in absent), key=lambda thing: thing.y
        )
        return (*(self.shadow(thing.x, thing.y) for thing in things), *under, *map(sprite_of, things))

    def hands(self, acting: Hand, other: Hand | None = None) -> tuple[Hand, Hand]:
        """The two hands, left first."""
        second = other or self.other
        return (acting, second) if acting.side == "left" else (second, acting)

    def before(self, *loose: Sprite) -> Picture:
        """Everything in its place, both hands at rest."""
        return Picture((*self.table(), *loose), self.hands(self.resting))

    def after(
        self,
        table: tuple[Sprite, ...],
        acting: Hand,
        held: tuple[Sprite, ...] = (),
        other: Hand | None = None,
    ) -> Picture:
        """The frame after, seen by the shifted camera."""
        return Picture(table, self.hands(acting, other), held, self.shift)

    def lifted_part(self) -> tuple[tuple[Sprite, ...], Hand]:
        """The hand that opens the subject, with the cap or lid that it holds."""
        thing, sign = self.subject, self.sign
        if thing.kind == "bottle":
            x, y = thing.x + sign * 0.11, thing.y - 0.10
            hand = reach(self.hand, x + sign * 0.05, y + 0.075, (-sign * 0.6, -0.8))
            return (Sprite("cap", thing.rgb, x, y),), hand
        if thing.kind == "pan":
            x, y = thing.x + sign * 0.10, thing.y - 0.12
            hand = reach(self.hand, x + sign * 0.11, y + 0.06, (-sign * 0.85, -0.55))
            return (Sprite("lid", thing.rgb, x, y, angle=sign * 0.5),), hand
        return (), reach(self.hand, thing.x + sign * 0.205, thing.y + 0.07, (-sign * 0.6, -0.8))

    def closing_hand(self) -> Hand:
        """The hand that has just closed the subject."""
        thing, sign = self.subject, self.sign
        up = {"bottle": -0.04, "pan": 0.06, "book": 0.06, "box": 0.04}[thing.kind]
        out = {"bottle": 0.13, "pan": 0.155, "book": 0.17, "box": 0.175}[thing.kind]
        return reach(self.hand, thing.x + sign * out, thing.y + up, (-sign * 0.85, -0.5))

    def story(
        self,
        before: Picture,
        after: Picture,
        end: Sprite | Area,
        *,
        goal: Place | None = None,
        marks: tuple[Mark, ...] = (),
        other_holds: bool = False,
    ) -> Story:
        """Puts a story together; `end` is the subject as the frame after shows it, or where that is."""
        kind = self.subject.kind
        start, area = (
            area_of(sprite_of(self.subject), kind),
            area_of(end, kind) if isinstance(end, Sprite) else end,
        )
        return Story(self.verb, self.scene, self.hand, before, after, start, area, goal, other_holds, marks)
