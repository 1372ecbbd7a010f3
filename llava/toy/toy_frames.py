"""The toy world's training frames, what each of CLIP's patches shows, and questions that a look answers."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from egogen.annotations import read_metadata
from egogen.conversations import Conversation, Turn
from egogen.errors import UserError
from egogen.files import read_json
from egogen.layout import Layout
from egogen.manifest import NAME
from egogen.reserved import IMAGE_TAG
from egogen.seeds import item_seed
from egogen.toy.actions import imagine
from egogen.toy.clip_facts import HAND_HALF
from egogen.toy.palette import COLOURS
from egogen.toy.scene import COLUMNS, KINDS, ROWS, Scene, Thing
from egogen.toy.staging import Story, area_of, sprite_of
from egogen.toy.wording import description
from egogen.toy.world import FRAME_0, Task

# What a patch may show, in words: what it is, its colour, row and column, and the hand that it is nearest to.
# The first of each stands for none.
SUBJECTS = ("", *KINDS, "forward", "hand")
TONES = ("", *COLOURS)
ROW_NAMES = ("", *ROWS)
COLUMN_NAMES = ("", *COLUMNS)
SIDES = ("", "left", "right")
ASKED = (
    "Where is the {}?",
    "What is near the {} that is displayed in the video frame?",
    "Look at the {} in the video frame.",
)


class View(NamedTuple):
    """A frame's file and the scene that it shows."""

    path: Path
    story: Story

    @property
    def scene(self) -> Scene:
        """The objects and hands."""
        return self.story.scene


def views(data_root: Path, dataset: str) -> list[View]:
    """The frames before the action of a train split, with the scenes that they were drawn from.

    Raises:
        UserError: the folder is not a toy world, or not one of this version.
    """
    layout = Layout(data_root, dataset)
    path = layout.egogen / NAME
    settings = read_json(path) if path.exists() else {}
    if settings.get("kind") != "toy world":
        raise UserError(
            f"{layout.egogen}: not a toy world; make one with python -m egogen.toy --out {data_root}"
        )
    facts = read_metadata(layout.metadata)
    found = []
    for index in range(int(settings["train"])):
        task = Task(dataset, "train", index)
        story = imagine(item_seed(settings["seed"], dataset, "train", str(index)))
        if getattr(facts.get(task.clip), "description", None) != description(story):
            raise UserError(
                f"{layout.metadata}: clip {task.clip!r} was drawn by another version; make it anew"
            )
        found.append(View(layout.frames("train") / task.image(FRAME_0), story))
    return found


class Targets(NamedTuple):
    """What each patch shows: places in `SUBJECTS`, `TONES`, `ROW_NAMES`, `COLUMN_NAMES` and `SIDES`."""

    subject: Int[Tensor, "*b p"]
    tone: Int[Tensor, "*b p"]
    row: Int[Tensor, "*b p"]
    column: Int[Tensor, "*b p"]
    side: Int[Tensor, "*b p"]


def patch_centres(side: int) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Centres of side x side patches of the central square, x and y in frame heights, raster order."""
    steps = (np.arange(side) + 0.5) / side
    return np.tile(steps - 0.5, side), np.repeat(steps, side)


def targets(story: Story, side: int) -> Targets:
    """What each of side x side patches shows before the action."""
    x, y = patch_centres(side)
    shown = np.zeros((len(Targets._fields), side * side), np.int64)
    for thing in story.scene.things:
        area = area_of(sprite_of(thing), thing.kind)
        inside = (abs(x - area.x) <= area.half_width) & (abs(y - area.y) <= area.half_height)
        facts = (
            SUBJECTS.index(thing.kind),
            TONES.index(thing.colour),
            1 + thing.place.row,
            1 + thing.place.column,
            SIDES.index(thing.handle),
        )
        shown[:, inside] = np.array(facts)[:, None]
    for hand in story.before.hands:
        inside = (abs(x - hand.x) <= HAND_HALF) & (abs(y - hand.y) <= HAND_HALF)
        name = "forward" if hand.side == story.scene.forward else "hand"
        shown[:, inside] = np.array((SUBJECTS.index(name), 0, 0, 0, SIDES.index(hand.side)))[:, None]
    return Targets(*torch.from_numpy(shown))


class Talk(NamedTuple):
    """Questions about a frame, and for each the object that it asks for."""

    record: Conversation
    things: list[Thing]


def talk(view: View, rng: Random) -> Talk:
    """Asks where each visible thing is, but nothing about actions: those are for fine-tuning."""
    things = rng.sample(view.scene.things, len(view.scene.things))
    turns: list[Turn] = []
    for thing in things:
        tag = "" if turns else f"{IMAGE_TAG}\n"
        turns.append(Turn(speaker="human", value=tag + rng.choice(ASKED).format(thing.kind)))
        told = f"The {thing.handle} hand is near the {thing.name} at the {thing.place.name}."
        turns.append(Turn(speaker="gpt", value=told))
    return Talk(Conversation(image="/".join(view.path.parts[-3:]), conversations=turns), things)
