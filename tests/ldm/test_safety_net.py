"""The safety net's part of ldm: every section equal to what is recorded in `tests/oracle/safety_net/`."""

from __future__ import annotations

import pytest

from tests.safety_net.record import compare
from tests.safety_net.stage_two import StageTwoNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> StageTwoNet:
    return StageTwoNet(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("section", StageTwoNet.sections)
def test_nothing_has_changed(net: StageTwoNet, section: str) -> None:
    found = compare(net, section)
    assert not found, "\n".join(found[:20])


def test_every_section_is_recorded(net: StageTwoNet) -> None:
    assert net.recorded()["sections"].keys() == net.sections.keys()
