"""The cache with room beforehand holds, bit for bit, what transformers' growing one holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from llava.describing.roomy_cache import SPARE, RoomyLayer, without_holes


def both() -> tuple[RoomyLayer, DynamicLayer, Callable[[int, int], None]]:
    """Two caches of one layer, and what adds the same random places to both and compares them."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = RoomyLayer(10_000), DynamicLayer()

    def add(rows: int, places: int) -> None:
        new = torch.randn(2, rows, 3, places, 4, generator=generator)
        for found, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()

    return ours, theirs, add


def test_rows_grow_leave_and_are_repeated_as_in_transformers() -> None:
    ours, theirs, add = both()
    add(1, 7)
    for layer in (ours, theirs):
        layer.batch_repeat_interleave(6)
    add(6, 5)
    rows = 6
    for step, going in enumerate([[0, 1, 2, 4, 5], [1, 2, 4], [0, 2], [1]]):
        for _ in range(SPARE // 2 + step):  # rooms are left on the way
            add(rows, 1)
        for layer in (ours, theirs):
            layer.batch_select_indices(without_holes(going))
        rows = len(going)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
    add(1, 1)


def test_a_place_is_written_where_it_stays_until_the_room_is_full() -> None:
    ours, _, add = both()
    add(4, 10)
    place = ours.keys.data_ptr()
    for _ in range(SPARE):
        add(4, 1)
        assert ours.keys.data_ptr() == place
    ours.batch_select_indices(torch.tensor([0, 3]))
    assert ours.keys.data_ptr() == place
    new = torch.zeros(2, 3, 1, 4)
    ours.update(new, new)
    assert ours.keys.data_ptr() != place
    assert ours.rooms[0].shape[::2] == (2, 10 + SPARE + 1 + 2 * SPARE)


@pytest.mark.parametrize(("longest", "places"), [(12, 12), (10, 10), (10_000, 10 + SPARE)])
def test_no_more_room_is_made_than_a_row_can_need(longest: int, places: int) -> None:
    layer = RoomyLayer(longest)
    layer.update(torch.zeros(1, 1, 10, 4), torch.zeros(1, 1, 10, 4))
    assert layer.rooms[0].shape[-2] == places


@pytest.mark.parametrize(
    ("going", "order"), [([0, 1], [0, 1]), ([1, 2, 3], [3, 1, 2]), ([0, 3, 4], [0, 3, 4]), ([4], [4])]
)
def test_rows_from_behind_fill_the_holes(going: list[int], order: list[int]) -> None:
    assert without_holes(going).tolist() == order
