"""The order of what a folder was drawn from does not tell of interruptions; further items have a place."""

from __future__ import annotations

import pytest

from ldm.sampling.drawn_items import in_order


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
