"""Example frames: toy scenes, drawn on the spot, each with actions that fit what is on its table."""

from __future__ import annotations

import io
from typing import NamedTuple

from egogen.seeds import item_seed
from egogen.toy.actions import OPENABLE, STANDING, imagine
from egogen.toy.render import Renderer
from egogen.toy.scene import Scene
from egogen.toy.wording import phrase

SEED = 2024
MOST_ACTIONS = 12
# For photos, in which nobody looks for them: what people do in kitchens and workshops all day.
COMMON = (
    "pick up the cup", "open the drawer", "close the drawer", "cut the vegetable", "wash the plate",
    "pour the water", "open the fridge", "stir the pan", "wipe the table", "put down the knife",
)  # fmt: skip


class Example(NamedTuple):
    """A frame as a PNG file, and what one can do in it."""

    name: str
    content: bytes
    actions: tuple[str, ...]


def examples(count: int, height: int) -> list[Example]:
    """Toy scenes of a height in pixels."""
    made: list[Example] = []
    for number in range(count):
        story = imagine(item_seed(SEED, "page", str(number)))
        shown = io.BytesIO()
        Renderer(story.scene, height).draw(story.before).save(shown, "PNG")
        own = phrase(story)
        actions = tuple(dict.fromkeys([own, *fitting(story.scene)]))[:MOST_ACTIONS]
        made.append(Example(f"scene {number + 1}", shown.getvalue(), actions))
    return made


def fitting(scene: Scene) -> list[str]:
    """What the toy world knows to do with each thing on a table, as the questions to stage 1 say it."""
    found = []
    for thing in scene.things:
        found.append(f"pick up the {thing.kind}")
        if thing.kind in STANDING:
            found.append(f"push the {thing.kind}")
        if thing.kind in OPENABLE:
            found.append(f"{'close' if thing.state == 'open' else 'open'} the {thing.kind}")
    return found
