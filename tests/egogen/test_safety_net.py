"""The safety net's part of egogen: every section equal to what is recorded in `tests/oracle/safety_net/`."""

from __future__ import annotations

import pytest

from tests.safety_net.data import DataNet
from tests.safety_net.record import compare


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> DataNet:
    return DataNet(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("section", DataNet.sections)
def test_nothing_has_changed(net: DataNet, section: str) -> None:
    found = compare(net, section)
    assert not found, "\n".join(found[:20])
