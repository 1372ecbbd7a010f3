"""Names of text features: witness is one look at each action after the other, with all names in memory."""

from __future__ import annotations

from operator import attrgetter
from pathlib import PurePosixPath
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from egogen import text_names
from egogen.annotations import Action, Item
from egogen.layout import without_suffix
from egogen.text_names import TextNames

# Frames that are shared, that differ in their endings, and that are called as the second of some action.
FRAMES = [
    "a/x.jpg",
    "a/x.png",
    "a/x",
    "./a/x.jpg",
    "a/x.c.1.jpg",
    "a/x.c.1.c.2.jpg",
    "a/y.c.0.jpg",
    "b/z.jpg",
]


def one_by_one(items: list[Item]) -> list[str]:
    taken, names = set(), []
    for item in items:
        path = PurePosixPath(item.action.image_0)
        if f"{path.with_suffix('')}" in taken:
            path = path.with_name(f"{path.stem}.{item.clip}.{item.id}{path.suffix}")
        taken.add(f"{path.with_suffix('')}")
        names.append(f"{path}")
    return names


@settings(deadline=None, max_examples=300)
@given(frames=st.lists(st.sampled_from(FRAMES) | st.integers(0, 3).map("c/{}.jpg".format), max_size=8))
def test_names_are_those_of_one_look_after_the_other(frames: list[str]) -> None:
    items = [
        Item("c", f"{number}", Action({"image_0": frame, "image_1": "t.jpg", "action": "cut"}))
        for number, frame in enumerate(frames)
    ]
    expected = one_by_one(items)
    names = TextNames(items, attrgetter("image_0"))
    assert [names.of(item) for item in items] == expected
    # As if any two hashes were alike.
    with mock.patch.object(text_names, "frame_mark", lambda frame: len(without_suffix(frame)) % 2):
        names = TextNames(items, attrgetter("image_0"))
        assert [names.of(item) for item in items] == expected
