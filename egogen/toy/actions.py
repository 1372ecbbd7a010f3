"""What happens: each verb's roles, and its story as a picture before and a picture after.

Fixed rules that the label does not say. The acting hand is that of the object's column; in the centre column
it is the hand that rests further forward. It grips handles at the handle, which always points to the acting
hand, and other objects from its own side. Pushing and wiping go one place across, away from the hand's own
side. Putting down goes to the nearest free place straight ahead. Lifting goes up and to the view's middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from egogen.toy.palette import FLESH, INSIDE, PAPER, WATER, shade
from egogen.toy.picture import OBJECT_SIZE, Area, Sprite
from egogen.toy.render import MAX_SHIFT
from egogen.toy.scene import KINDS, OTHER, PLACES, SIGN, STATES, Place, Role, Side, State, compose, hand_for
from egogen.toy.staging import (
    LIFT_SCALE,
    Mark,
    Stage,
    Story,
    across,
    area_of,
    grip,
    look,
    reach,
    sprite_of,
)

MIDDLE_OF_VIEW = (0.0, 0.40)
# What fits into what, and stands on what.
INTO = {
    "bowl": ("apple", "sponge"),
    "pan": ("apple", "sponge"),
    "box": ("apple", "sponge", "cup", "bottle", "book"),
}
ONTO = {
    "plate": ("apple", "sponge", "cup"),
    "book": ("apple", "cup", "bowl"),
    "box": ("apple", "cup", "bowl", "book"),
}
POUR_INTO = ("cup", "bowl", "pan")
STANDING = [kind for kind in KINDS if kind not in ("knife", "sponge")]
OPENABLE = ("box", "book", "bottle", "pan")


class Cast(NamedTuple):
    """What an action needs of a scene: the subject's role first, and places that stay empty."""

    roles: Sequence[Role]
    reserved: Sequence[Place] = ()


def usual(kind: str) -> State:
    """The state in which an object is mostly found."""
    return STATES.get(kind, ("closed",))[0]


def any_role(rng: Random, kinds: Sequence[str], places: Sequence[Place] = PLACES) -> Role:
    """Any of some kinds at any of some places."""
    kind = rng.choice(kinds)
    return Role(kind, rng.choice(places), usual(kind))


def beside(rng: Random, place: Place, rows: Sequence[int] = (0, 1, 2)) -> Place:
    """Any other place, in one of the rows."""
    return rng.choice([other for other in PLACES if other != place and other.row in rows])


# pick up


def cast_pick_up(rng: Random, _forward: Side) -> Cast:
    """Any object."""
    return Cast([any_role(rng, KINDS)])


def tell_pick_up(stage: Stage) -> Story:
    """The object rises towards the middle of the view, and its shadow stays behind."""
    thing = stage.subject
    x, y = ((3 * at + middle) / 4 for at, middle in zip((thing.x, thing.y), MIDDLE_OF_VIEW, strict=True))
    y -= 0.05
    held = replace(sprite_of(thing), x=x, y=y, size=OBJECT_SIZE * LIFT_SCALE)
    table = stage.table(thing, under=(stage.shadow(thing.x, thing.y),))
    after = stage.after(table, grip(stage.hand, thing.kind, x, y, LIFT_SCALE), (held,))
    return stage.story(stage.before(), after, held)


# put down


def goal_of_putting_down(taken: Sequence[Place], side: Side) -> Place:
    """The nearest free place straight ahead of a hand."""
    column = 1 + SIGN[side]
    return next(Place(column, row) for row in (1, 0) if Place(column, row) not in taken)


def cast_put_down(rng: Random, _forward: Side) -> Cast:
    """An object in a hand, whose column keeps its near and one further place free."""
    side: Side = rng.choice(("left", "right"))
    column = 1 + SIGN[side]
    goal = Place(column, rng.choice((0, 1)))
    return Cast([Role(role := rng.choice(KINDS), Place(column, 2), usual(role))], [goal])


def tell_put_down(stage: Stage) -> Story:
    """The hand that held the object just before itself reaches to the free place and sets it down."""
    thing = stage.subject
    goal = goal_of_putting_down([other.place for other in stage.scene.things], stage.hand)
    x, y = goal.centre
    held = sprite_of(thing)
    down = replace(held, x=x, y=y)
    before = replace(
        stage.before(),
        table=stage.table(thing),
        hands=stage.hands(grip(stage.hand, thing.kind, thing.x, thing.y)),
        held=(held,),
    )
    table = stage.table(thing, under=(stage.shadow(x, y),))
    after = stage.after(table, grip(stage.hand, thing.kind, x, y), (down,))
    return stage.story(before, after, down, goal=goal)


# put in, put on


def cast_put(rng: Random, _forward: Side, pairs: dict[str, tuple[str, ...]], state: State) -> Cast:
    """An object, and one that it fits into or stands on; a box is in the state."""
    kind = rng.choice(tuple(pairs))
    subject = any_role(rng, pairs[kind])
    partner = Role(kind, beside(rng, subject.place), state if kind == "box" else usual(kind))
    return Cast([subject, partner])


def tell_put_in(stage: Stage) -> Story:
    """The object sits in the opening, its lower part hidden; the hand is still at it."""
    thing, partner = stage.subject, stage.partner
    dx = -SIGN[partner.handle] * 0.02 if partner.kind == "pan" else 0.0
    x, y = partner.x + dx, partner.y - 0.075
    held = replace(sprite_of(thing), x=x, y=y, size=OBJECT_SIZE * 0.92)
    front = replace(sprite_of(partner), look=f"{partner.kind} front")
    after = stage.after(stage.table(thing), grip(stage.hand, thing.kind, x, y - 0.03), (held, front))
    area = area_of(held, thing.kind)
    # The lower part is hidden.
    hidden = area.half_height * 0.3
    return stage.story(
        stage.before(), after, replace(area, y=area.y - hidden, half_height=area.half_height - hidden)
    )


def tell_put_on(stage: Stage) -> Story:
    """The object stands on the other one; the hand is still at it."""
    thing, partner = stage.subject, stage.partner
    x, y = partner.x, partner.y - 0.07
    held = replace(sprite_of(thing), x=x, y=y)
    after = stage.after(stage.table(thing), grip(stage.hand, thing.kind, x, y), (held,))
    return stage.story(stage.before(), after, held)


# push, wipe


def cast_across(rng: Random, forward: Side, kinds: Sequence[str]) -> Cast:
    """An object with a free place next to it, away from its hand."""
    role = any_role(rng, kinds)
    return Cast([role], [across(role.place, hand_for(role.place, forward))])


def tell_push(stage: Stage) -> Story:
    """The object stands one place across; the flat hand is at the side that it pushed."""
    thing = stage.subject
    goal = across(thing.place, stage.hand)
    x, y = goal.centre[0], thing.y
    width = 0.20 if thing.kind != "pan" else 0.235
    hand = reach(stage.hand, x + stage.sign * width, y + 0.035, (-stage.sign * 0.75, -0.65))
    moved = replace(sprite_of(thing), x=x)
    table = stage.table(thing, under=(stage.shadow(x, y),))
    return stage.story(stage.before(), stage.after((*table, moved), hand), moved, goal=goal)


def tell_wipe(stage: Stage) -> Story:
    """The hand has drawn the sponge one place across and left a wet streak."""
    thing = stage.subject
    goal = across(thing.place, stage.hand)
    x, y = goal.centre[0], thing.y
    held = replace(sprite_of(thing), x=x)
    wet = shade(WATER, 0.8)
    streak = Sprite("streak", wet, (x + thing.x) / 2 + stage.sign * 0.03, y + 0.01)
    hand = reach(stage.hand, x + stage.sign * 0.13, y + 0.09, (-stage.sign * 0.6, -0.8))
    after = stage.after(stage.table(thing, under=(streak,)), hand, (held,))
    mark = Mark("wet streak", WATER, Area(thing.x, y, 0.07, 0.06))
    return stage.story(stage.before(), after, held, goal=goal, marks=(mark,))


# open, close


def cast_open(rng: Random, _forward: Side) -> Cast:
    """A closed box, book, bottle or pan."""
    return Cast([Role(rng.choice(OPENABLE), rng.choice(PLACES), "closed")])


def cast_close(rng: Random, forward: Side) -> Cast:
    """An open box, book, bottle or pan; a pan's lid needs the place across."""
    role = Role(rng.choice(OPENABLE), rng.choice(PLACES), "open")
    aside = across(role.place, hand_for(role.place, forward))
    return Cast([role], [aside] if role.kind == "pan" else [])


def tell_open(stage: Stage) -> Story:
    """Box and book are open under the hand; a bottle's cap or a pan's lid is in the hand."""
    thing = stage.subject
    changed = replace(sprite_of(thing), look=look(thing.kind, "open"))
    part, hand = stage.lifted_part()
    after = stage.after(stage.table(thing, under=(stage.shadow(thing.x, thing.y),)), hand, (changed, *part))
    return stage.story(stage.before(), after, changed, marks=opening(stage))


def tell_close(stage: Stage) -> Story:
    """The reverse; before it, a bottle's cap or a pan's lid lies on the table."""
    thing = stage.subject
    aside = across(thing.place, stage.hand)
    loose: tuple[Sprite, ...] = ()
    if thing.kind == "bottle":
        loose = (Sprite("cap", thing.rgb, thing.x - stage.sign * 0.11, thing.y + 0.08),)
    elif thing.kind == "pan":
        loose = (Sprite("lid", thing.rgb, aside.centre[0], thing.y + 0.02),)
    closed = replace(sprite_of(thing), look=look(thing.kind, "closed"))
    hand = stage.closing_hand()
    table = stage.table(thing, under=(stage.shadow(thing.x, thing.y),))
    after = stage.after(table, hand, (closed,))
    return stage.story(stage.before(*loose), after, closed, marks=opening(stage))


def opening(stage: Stage) -> tuple[Mark, ...]:
    """The colour of what opening shows and closing hides, or, of a bottle, the reverse."""
    thing = stage.subject
    tilt = -SIGN[thing.handle] * 0.025 if thing.kind == "pan" else 0.0
    marks = {
        "box": Mark("inside", INSIDE, Area(thing.x, thing.y - 0.05, 0.08, 0.03)),
        "book": Mark("pages", PAPER, Area(thing.x, thing.y, 0.09, 0.06)),
        "bottle": Mark("cap", INSIDE, Area(thing.x, thing.y - 0.12, 0.032, 0.025)),
        "pan": Mark("inside", INSIDE, Area(thing.x + tilt, thing.y, 0.07, 0.05)),
    }
    return (marks[thing.kind],)


# cut, pour


def cast_cut(rng: Random, _forward: Side) -> Cast:
    """An apple and a knife."""
    apple = Role("apple", rng.choice(PLACES))
    return Cast([apple, Role("knife", beside(rng, apple.place))])


def tell_cut(stage: Stage) -> Story:
    """The knife is in the acting hand, over two halves; the other hand holds the apple."""
    apple, knife = stage.subject, stage.partner
    sign = stage.sign
    blade = replace(
        sprite_of(knife), x=apple.x + sign * 0.085, y=apple.y - 0.10, handle=stage.hand, angle=-sign * 0.9
    )
    hand = reach(stage.hand, apple.x + sign * 0.19, apple.y - 0.12, (-sign * 0.9, -0.45))
    other = reach(OTHER[stage.hand], apple.x - sign * 0.20, apple.y + 0.08, (sign * 0.8, -0.6))
    halves = replace(sprite_of(apple), look=look("apple", "cut"), size=OBJECT_SIZE * 1.15)
    table = stage.table(apple, knife, under=(stage.shadow(apple.x, apple.y),))
    after = stage.after(table, hand, (halves, blade), other)
    marks = (Mark("flesh", FLESH, Area(apple.x, apple.y + 0.02, 0.11, 0.05)),)
    area = Area(apple.x, apple.y + 0.01, 0.15, 0.10)
    return stage.story(stage.before(), after, area, marks=marks, other_holds=True)


def cast_pour(rng: Random, _forward: Side) -> Cast:
    """A bottle, and a vessel that is not so far that the bottle would leave the view."""
    bottle = Role("bottle", rng.choice(PLACES))
    kind = rng.choice(POUR_INTO)
    return Cast([bottle, Role(kind, beside(rng, bottle.place, (1, 2)), usual(kind))])


def tell_pour(stage: Stage) -> Story:
    """The open bottle hangs tilted over the vessel, and water falls in."""
    bottle, vessel = stage.subject, stage.partner
    sign = stage.sign
    mouth_x = vessel.x - (SIGN[vessel.handle] * 0.025 if vessel.kind == "pan" else 0.0)
    x, y = mouth_x + sign * 0.125, vessel.y - 0.20
    tilted = replace(sprite_of(bottle), look="open bottle", x=x, y=y, angle=-sign * 1.95)
    stream = Sprite("stream", WATER, mouth_x, vessel.y - 0.09)
    hand = reach(stage.hand, x + sign * 0.10, y + 0.11, (-sign * 0.35, -0.95))
    after = stage.after(stage.table(bottle), hand, (stream, tilted))
    area = Area(x + sign * 0.02, y - 0.01, 0.08, 0.065)
    marks = (Mark("water", WATER, Area(mouth_x, vessel.y - 0.08, 0.03, 0.045)),)
    return stage.story(stage.before(), after, area, marks=marks)


class Verb(NamedTuple):
    """How an action is set up and told."""

    cast: Callable[[Random, Side], Cast]
    tell: Callable[[Stage], Story]


VERBS: dict[str, Verb] = {
    "pick up": Verb(cast_pick_up, tell_pick_up),
    "put down": Verb(cast_put_down, tell_put_down),
    "put in": Verb(partial(cast_put, pairs=INTO, state="open"), tell_put_in),
    "put on": Verb(partial(cast_put, pairs=ONTO, state="closed"), tell_put_on),
    "push": Verb(partial(cast_across, kinds=STANDING), tell_push),
    "open": Verb(cast_open, tell_open),
    "close": Verb(cast_close, tell_close),
    "cut": Verb(cast_cut, tell_cut),
    "pour": Verb(cast_pour, tell_pour),
    "wipe": Verb(partial(cast_across, kinds=["sponge"]), tell_wipe),
}


def imagine(seed: int) -> Story:
    """Draws one action in one scene from a seed."""
    rng = Random(seed)  # noqa: S311 - pictures, not secrets
    verb = rng.choice(tuple(VERBS))
    forward: Side = rng.choice(("left", "right"))
    cast = VERBS[verb].cast(rng, forward)
    scene = compose(rng, forward, cast.roles, cast.reserved)
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT), rng.uniform(-MAX_SHIFT, MAX_SHIFT)
    return VERBS[verb].tell(Stage(verb, scene, shift))
