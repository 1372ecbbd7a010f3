"""The safety net's part of egogen: every section equal to what is recorded in `tests/oracle/safety_net/`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.safety_net.data import DataNet
from tests.safety_net.record import compare, differences


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> DataNet:
    return DataNet(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("section", DataNet.sections)
def test_nothing_has_changed(net: DataNet, section: str) -> None:
    found = compare(net, section)
    assert not found, "\n".join(found[:20])


def test_every_section_is_recorded(net: DataNet) -> None:
    assert net.recorded()["sections"].keys() == net.sections.keys()


@pytest.mark.parametrize(
    ("before", "now", "exact", "elsewhere"),
    [
        (0.1, 0.1 + 2**-55, 1, 0),
        (0.1, 0.101, 1, 1),
        (3, 4, 1, 1),
        ("cup", "pan", 1, 1),
        ({"sha256": "a", "norm": 1.0}, {"sha256": "b", "norm": 1.0}, 1, 0),
        ({"norm": 1.0}, {"other": 1.0}, 2, 2),
        ([1.0, 2.0], [1.0], 1, 1),
        (np.zeros(4, np.uint8), np.array([0, 0, 0, 1], np.uint8), 1, 0),
        (np.zeros(4, np.uint8), np.full(4, 3, np.uint8), 1, 1),
        (np.zeros(4, np.float16), np.full(4, 0.01, np.float16), 1, 0),
        (np.zeros(4, np.float16), np.full(4, 0.1, np.float16), 1, 1),
        (np.zeros(4, np.float16), np.zeros(4, np.float32), 1, 1),
    ],
)
def test_differences_are_noticed(before: Any, now: Any, exact: int, elsewhere: int) -> None:
    """By hand: how many there are to the last bit, and how many are more than rounding."""
    assert len(list(differences(before, now, "place", exact=True))) == exact
    assert len(list(differences(before, now, "place", exact=False))) == elsewhere
    assert not list(differences(before, before, "place", exact=True))
