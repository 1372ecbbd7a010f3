"""Checks every annotated shape while the tests run: must come before any import of our packages."""

import os
from collections.abc import Generator

import coverage
import pytest
from jaxtyping import install_import_hook

install_import_hook(["egogen", "llava", "ldm"], "beartype.beartype")

FOR_CHILDREN = "COVERAGE_PROCESS_CONFIG"  # by it a process that a test starts is measured too


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leaves slow tests out of the coverage: tracing makes them a third slower; the others reach the aim."""
    measured = coverage.Coverage.current()
    if measured is None or item.get_closest_marker("slow") is None:
        return (yield)
    measured.stop()
    config = os.environ.pop(FOR_CHILDREN, None)
    try:
        return (yield)
    finally:
        if config is not None:
            os.environ[FOR_CHILDREN] = config
        measured.start()


def pytest_report_header() -> str:
    """Says whether tests of real samples are left out; `-ra` lists them with their reasons."""
    from tests.samples import EPIC, PAIRS, missing

    left_out = dict.fromkeys(why for folder in (EPIC, PAIRS) if (why := missing(folder)))
    return "; ".join(f"tests left out, {why}" for why in left_out) or "tests of real samples run too"
