"""Chromium for tests of pages; where there is none they are left out, and the reason is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import FOUND, WHY_NOT


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    if FOUND is None:
        pytest.skip(WHY_NOT)
    return Path(FOUND)


@pytest.fixture(scope="session")
def chromium(chromium_path: Path) -> Iterator[object]:
    """A running browser of Playwright's."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium_path), args=["--no-sandbox"])
        yield browser
        browser.close()
