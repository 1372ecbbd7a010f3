"""The safety net's part of llava: every section equal to what is recorded in `tests/oracle/safety_net/`."""

from __future__ import annotations

import pytest

from tests.safety_net.record import compare
from tests.safety_net.stage_one import StageOneNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> StageOneNet:
    return StageOneNet(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("section", StageOneNet.sections)
def test_nothing_has_changed(net: StageOneNet, section: str) -> None:
    found = compare(net, section)
    assert not found, "\n".join(found[:20])


def test_every_section_is_recorded(net: StageOneNet) -> None:
    assert net.recorded()["sections"].keys() == net.sections.keys()
