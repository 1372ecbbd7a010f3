"""The two hosts of a test; left out, with the reason, where the machine cannot have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.bed import Hosts, hosts, missing


@pytest.fixture
def two() -> Iterator[Hosts]:
    if why := missing():
        pytest.skip(f"two hosts need network namespaces and root: {why}")
    with hosts() as made:
        yield made
