from __future__ import annotations

from typing import Any

import pytest

from egogen.annotations import Action, ClipMetadata, Item
from egogen.errors import UserError
from llava.curate.pair_facts import PairFacts, facts_of

BOX = {"x": 100, "y": 50, "width": 200, "height": 100}


def item(**more: Any) -> Item:
    entry = {"image_0": "c/0/a.jpg", "image_1": "c/0/b.jpg", "action": "#C C cuts the carrot", **more}
    return Item("c", "0", Action(entry))


def facts(entry: Item, **clip: Any) -> PairFacts:
    return facts_of(entry, "cut the carrot", ClipMetadata(width=1000, height=500, **clip), "m.json")


def test_boxes_are_told_in_shares_of_the_frame() -> None:
    made = facts(item(), hand_box_0=BOX, other_hand_box_0=None, object_box_1=BOX, hand="left", fps=30.0)
    assert made.text().splitlines() == [
        "Action: cut the carrot",
        "Boxes before the action (left top right bottom):",
        "- hand: 0.10 0.10 0.30 0.30",
        "Boxes during the action (left top right bottom):",
        "- object: 0.10 0.10 0.30 0.30",
    ]


def test_an_actions_own_boxes_come_before_its_clips() -> None:
    own = {**BOX, "x": 500}
    made = facts(item(hand_box_0=own), hand_box_0=BOX, knife_box_0=BOX)
    assert {name: shares[0] for name, shares in made.before.items()} == {"hand": 0.5, "knife": 0.1}


def test_what_lies_outside_the_frame_is_not_told() -> None:
    made = facts(item(), hand_box_0={**BOX, "x": 1200}, object_box_0={**BOX, "width": 0})
    assert made.before == {}


def test_a_narration_is_told_in_one_line() -> None:
    made = facts(item(narration=" #C C cuts the carrot\nwith a knife "))
    assert made.text() == "Action: cut the carrot\nNarration: #C C cuts the carrot with a knife"
    assert facts(item(narration=7)).narration is None


def test_odd_letters_of_a_label_can_be_sent() -> None:
    assert PairFacts("cut \ud800 the\n jalape\u00f1o").text() == "Action: cut ? the jalape\u00f1o"


def test_a_clip_without_metadata_has_no_boxes() -> None:
    assert facts_of(item(hand_box_0=BOX), "cut the carrot", None, "m.json") == PairFacts("cut the carrot")


def test_a_malformed_box_is_named() -> None:
    with pytest.raises(UserError, match=r"m\.json: clip 'c', field 'hand_box_0': found 3"):
        facts(item(), hand_box_0=3)
    with pytest.raises(UserError, match="clip 'c', action '0', box 'hand_box_1': the field 'x' is missing"):
        facts(item(hand_box_1={}))
