"""Measures the coverage of the tests' own process: `python -m pytest -p tests.measured`.

Of each test function the first half second of its first case counts. Tracing makes quick tests half as long
again; further cases run the lines of the first, and what goes on for longer mostly goes round in a loop.
"""

import signal
from collections.abc import Generator
from importlib import import_module
from importlib.util import find_spec

import pytest
from coverage import Coverage

SECONDS = 0.5  # of the processor
COVERAGE = Coverage(data_suffix=True)
MEASURED: dict[str, str] = {}  # of each test function the case that came first

for library in ("transformers.trainer", "diffusers.models.unets.unet_2d_condition", "pytorch_lightning"):
    if find_spec(library.partition(".")[0]):
        import_module(library)  # what most tests need is not traced
COVERAGE.start()  # our modules are imported while the tests are collected


def stop(*_: object) -> None:
    """Ends what is measured, also half-way through a test; `start` begins anew with a tracer of its own."""
    COVERAGE.stop()


def pytest_collection_finish() -> None:
    """From here on it is measured test by test."""
    stop()
    signal.signal(signal.SIGVTALRM, stop)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measures a test, if it is the first case of its function."""
    function = item.nodeid.partition("[")[0]
    if MEASURED.setdefault(function, item.nodeid) != item.nodeid:
        return (yield)
    COVERAGE.start()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        stop()


def pytest_unconfigure() -> None:
    """Writes what was found."""
    stop()
    COVERAGE.save()
