"""Tiny checkpoints, and a page that all tests of it share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ldm.checkpoints.writing import write
from tests.ldm.page.running_page import Page, running
from tests.ldm.test_convert import state_of
from tests.ldm.toy_run import SHAPE


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page_checkpoints")
    write(folder / "lego.ckpt", state_of(SHAPE), SHAPE, resolution=32)
    write(folder / "ip2p.ckpt", state_of(SHAPE, conditioner=False), SHAPE, resolution=32)
    broken = state_of(SHAPE)
    broken["model.diffusion_model.out.2.weight"].fill_(np.nan)
    write(folder / "nan.ckpt", broken, SHAPE, resolution=32)
    return folder


@pytest.fixture(scope="session")
def page(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """With stage 1, and two methods to compare."""
    others = [f"ip2p={checkpoints / 'ip2p.ckpt'}", f"nan={checkpoints / 'nan.ckpt'}"]
    folder = tmp_path_factory.mktemp("page")
    with running(folder, checkpoints / "lego.ckpt", compare=others, max_waiting=8, max_mb=1.0) as made:
        yield made
