"""The order of what a folder was drawn from does not tell of interruptions; further items have a place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldm.sampling.drawn_items import in_order, note_items


@pytest.mark.parametrize(
    ("known", "wanted", "order"),
    [
        ("", "abc", "abc"),
        ("ac", "abc", "abc"),  # b could not be read, and was mended
        ("c", "abc", "abc"),
        ("xac", "abc", "xabc"),
        ("xy", "abc", "xyabc"),
        ("abc", "b", "abc"),
        ("abc", "cba", "abc"),
        ("ab", "bda", "abd"),
        ("abc", "", "abc"),
    ],
)
def test_further_names_come_where_they_are_wanted(known: str, wanted: str, order: str) -> None:
    assert "".join(in_order(dict.fromkeys(known), wanted)) == order


@pytest.mark.parametrize(
    "items", [[], [("c/a", "1")], [("c/a", "1"), ('c/"é', "2")], [("c/a", "1"), ("d/a", "2"), ("c/a", "3")]]
)
def test_items_are_noted_as_one_object(tmp_path: Path, items: list[tuple[str, str]]) -> None:
    path = tmp_path / "items.json"
    note_items(path, lambda: iter(items))
    assert path.read_text() == f"{json.dumps(dict(items))}\n"
