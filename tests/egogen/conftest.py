"""A small toy world that tests of whole data sets copy."""

import shutil
from pathlib import Path

import pytest

from egogen.toy.world import write_world

TRAIN, VAL, SIZE = 5, 3, 40


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(out, TRAIN, VAL, SIZE, seed=5, workers=1)
    return out


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(world, tmp_path / "root"))
