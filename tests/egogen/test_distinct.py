"""Counting different texts by their hashes."""

from __future__ import annotations

import numpy as np
import pytest

from egogen.blocks import in_blocks
from egogen.distinct import among, distinct, once


@pytest.mark.parametrize(
    ("texts", "count"), [([], 0), (["a"], 1), (["a", "b", "a"], 2), (["", "a", "", ""], 2)]
)
def test_equal_texts_count_once(texts: list[str], count: int) -> None:
    assert distinct(iter(texts)) == count


def test_many() -> None:
    assert distinct(f"clip_{number % 5000}/x.jpg" for number in range(20_000)) == 5000


@pytest.mark.parametrize("ordered", [[], [2], [-5, 0, 2, 7]])
def test_among(ordered: list[int]) -> None:
    marks = [7, -6, 2, 8, 0, 2]
    found = among(np.array(marks, np.int64), np.array(ordered, np.int64))
    assert found.tolist() == [mark in ordered for mark in marks]


def test_each_text_once() -> None:
    assert [*once(["b", "a", "b", "", "a", ""])] == ["b", "a", ""]


def test_blocks_are_the_whole() -> None:
    assert [*in_blocks(iter(range(7)), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [*in_blocks([])] == []
