from __future__ import annotations

from typing import Any

import pytest

from egogen.boxes import Box, read_boxes
from egogen.errors import UserError

BOX = {"x": 10, "y": 5.5, "width": 20, "height": 4}


def test_boxes_of_a_frame_are_found_by_name() -> None:
    fields = {
        "left_hand_box_0": BOX,
        "object_box_1": BOX,
        "other_hand_box_0": None,
        "note_box_0": "none",
        "hand": "left",
        "fps": 30.0,
    }
    assert read_boxes(fields, 0, "here") == {"left hand": Box(**BOX)}
    assert read_boxes(fields, 1, "here") == {"object": Box(**BOX)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3, 4], r"^here, field 'hand_box_0': found \[1, 2, 3, 4\], expected a box"),
        ({"x": 1, "y": 2, "width": 3}, r"^here, box 'hand_box_0': the field 'height' is missing"),
        ({**BOX, "width": -1}, "field 'width': found -1: .*greater than or equal to 0"),
        ({**BOX, "x": float("nan")}, "field 'x': found nan: .*finite"),
        ({**BOX, "y": "5"}, "field 'y': found '5'"),
        ({**BOX, "y": True}, "field 'y': found True"),
    ],
)
def test_what_is_no_box_is_named(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_boxes({"hand_box_0": value}, 0, "here")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(x=10, y=5, width=20, height=10), (0.1, 0.1, 0.3, 0.3)),
        (Box(x=-10, y=-5, width=20, height=10), (0.0, 0.0, 0.1, 0.1)),
        (Box(x=90, y=45, width=20, height=10), (0.9, 0.9, 1.0, 1.0)),
        (Box(x=120, y=0, width=20, height=10), (1.0, 0.0, 1.0, 0.2)),
    ],
)
def test_shares_are_cut_at_the_edges(box: Box, expected: tuple[float, ...]) -> None:
    assert box.shares(100, 50) == pytest.approx(expected)
