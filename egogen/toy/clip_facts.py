"""A clip's metadata: who does what with what, where things are, and the signs that `success` reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image

from egogen.boxes import Box
from egogen.toy.palette import RGB
from egogen.toy.pen import Point
from egogen.toy.picture import Area, Hand
from egogen.toy.staging import Story
from egogen.toy.verdict import JUDGED_HEIGHT, Known, Sign, judged

FPS = 30.0
HAND_HALF = 0.095
# No sign asks for less of a colour than a part of this: nothing at all must never do.
MIN_SHARE = 0.1
# A place counts as left if at least this share of its box changes colour.
MIN_CHANGE = 0.3
# Where an object ends upon its old place, nothing tells whether it left.
MAX_OVERLAP = 0.3


class FramePair(NamedTuple):
    """The two frames of a story."""

    before: Image.Image
    after: Image.Image


def metadata(story: Story, frames: FramePair, label: str, description: str) -> dict[str, object]:
    """Flat facts of the clip's one action, as JSON values; frames tell how far each sign is visible."""
    scene, width, height = story.scene, *frames.before.size
    pictures, acting = (story.before, story.after), story.hand == "right"
    areas = {
        "hand": [hand_area(picture.hands[acting]) for picture in pictures],
        "other_hand": [hand_area(picture.hands[not acting]) for picture in pictures],
        "object": [story.area_before, story.area_after],
    }
    boxes = {
        f"{name}_box_{slot}": box_of(area, picture.shift, width, height)
        for name, both in areas.items()
        for slot, (area, picture) in enumerate(zip(both, pictures, strict=True))
    }
    return {
        "height": height,
        "width": width,
        "fps": FPS,
        "verb": story.verb,
        "label": label,
        "description": description,
        "hand": story.hand,
        "object": story.subject.kind,
        "object_colour": story.subject.colour,
        "skin": list(scene.skin),
        "sleeve": list(scene.sleeve),
        "table": list(scene.table.tone),
        **{name: box.model_dump() for name, box in boxes.items()},
        "signs": [sign.model_dump() for sign in signs(story, frames, boxes)],
    }


def hand_area(hand: Hand) -> Area:
    """The square around a palm and its fingers."""
    return Area(hand.x, hand.y, HAND_HALF, HAND_HALF)


def box_of(area: Area, shift: Point, width: int, height: int) -> Box:
    """An area as a box in pixels, cut at the frame's edges."""
    x, y = area.x + shift[0], area.y + shift[1]
    left, right = (
        min(width, max(0.0, width / 2 + (x + half) * height)) for half in (-area.half_width, area.half_width)
    )
    top, bottom = (
        min(height, max(0.0, (y + half) * height)) for half in (-area.half_height, area.half_height)
    )
    return Box(x=round(left, 2), y=round(top, 2), width=round(right - left, 2), height=round(bottom - top, 2))


def overlap(first: Box, second: Box) -> float:
    """The share of the first box that the second covers, 0 to 1."""
    across = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    down = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return max(0.0, across) * max(0.0, down) / (first.width * first.height)


def shares_of(
    known: Known, pixels: list[Float32[np.ndarray, "64 w 3"]], scale: float, colour: RGB, box: Box
) -> tuple[float, float]:
    """A colour's shares of a box before and after the event."""
    before, after = (round(known.share(part, colour, box, scale), 3) for part in pixels)
    return before, after


def signs(story: Story, frames: FramePair, boxes: dict[str, Box]) -> Iterator[Sign]:
    """The signs of the event with their shares without it (in the frame before, or none) and with it."""
    scene, subject = story.scene, story.subject
    width, height = frames.before.size
    known = Known(scene.skin, scene.sleeve, scene.table.tone)
    scale = JUDGED_HEIGHT / height
    # Measured on frames of half the size: a detail that does not survive this is no sign, since generated
    # frames are soft.
    coarse = [frame.resize((width // 2, height // 2), Image.Resampling.BILINEAR) for frame in frames]
    pixels = [judged(frame, width, height) for frame in coarse]
    shares = partial(shares_of, known, pixels, scale)
    hand, thing = boxes["hand_box_1"], boxes["object_box_1"]
    before, after = shares(scene.skin, hand)
    # An object of nearly the skin's colour may stand there before.
    yield Sign(
        what="hand at its new place", colour=scene.skin, box=hand, without=min(before, after / 2), share=after
    )
    _, after = shares(subject.rgb, thing)
    yield Sign(
        what="object at its new place",
        colour=subject.rgb,
        box=thing,
        without=0.0,
        share=max(after, MIN_SHARE),
    )
    for who, colour in (("hand", scene.skin), ("object", subject.rgb)):
        box = boxes[f"{who}_box_0"]
        before, after = shares(colour, box)
        if overlap(box, boxes[f"{who}_box_1"]) <= MAX_OVERLAP and before - after >= MIN_CHANGE:
            yield Sign(what=f"{who} left its place", colour=colour, box=box, without=before, share=after)
    fine = judged(frames.after, width, height)
    for mark in story.marks:
        box = box_of(mark.area, story.after.shift, width, height)
        before, after = shares(mark.colour, box)
        if abs(before - after) >= MIN_CHANGE:
            sign = Sign(what=mark.what, colour=mark.colour, box=box, without=before, share=after)
            if sign.holds(known.share(fine, mark.colour, box, scale)):
                yield sign
