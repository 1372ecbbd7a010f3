"""Counting different texts by their hashes."""

from __future__ import annotations

import pytest

from egogen.distinct import distinct


@pytest.mark.parametrize(
    ("texts", "count"), [([], 0), (["a"], 1), (["a", "b", "a"], 2), (["", "a", "", ""], 2)]
)
def test_equal_texts_count_once(texts: list[str], count: int) -> None:
    assert distinct(iter(texts)) == count


def test_many() -> None:
    assert distinct(f"clip_{number % 5000}/x.jpg" for number in range(20_000)) == 5000
