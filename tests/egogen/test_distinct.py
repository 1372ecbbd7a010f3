"""Counting different texts by their hashes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from egogen.blocks import in_blocks
from egogen.distinct import among, distinct, once


def marks(texts: Iterable[str]) -> np.ndarray:
    return np.fromiter(map(hash, texts), np.int64)


@pytest.mark.parametrize(
    ("texts", "count"), [([], 0), (["a"], 1), (["a", "b", "a"], 2), (["", "a", "", ""], 2)]
)
def test_equal_texts_count_once(texts: list[str], count: int) -> None:
    assert distinct(marks(texts)) == count


def test_many() -> None:
    assert distinct(marks(f"clip_{number % 5000}/x.jpg" for number in range(20_000))) == 5000


@pytest.mark.parametrize("ordered", [[], [2], [-5, 0, 2, 7]])
def test_among(ordered: list[int]) -> None:
    asked = [7, -6, 2, 8, 0, 2]
    found = among(np.array(asked, np.int64), np.array(ordered, np.int64))
    assert found.tolist() == [mark in ordered for mark in asked]


def test_each_text_once() -> None:
    assert [*once(["b", "a", "b", "", "a", ""])] == ["b", "a", ""]


def test_blocks_are_the_whole() -> None:
    assert [*in_blocks(iter(range(7)), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [*in_blocks([])] == []
