"""Collects the verdicts of cells, and with `--write-verdicts` writes them into docs/reliability.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator

import pytest

from tests.faults import verdicts
from tests.faults.verdicts import FAILS, HOLDS, Cell

NAMES = ("fault", "bench")
seconds: dict[str, float] = defaultdict(float)
outcomes: dict[Cell, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-verdicts", action="store_true", help="write docs/reliability.md's table")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes what became of a cell, and after each brings the page up to date."""
    report = yield
    fault, command = (getattr(item, "callspec", None) and item.callspec.params.get(name) for name in NAMES)
    if fault is None or not item.config.getoption("--write-verdicts", default=False):
        return report
    seconds[command] += call.duration
    outcomes[command, fault] = FAILS if report.failed else outcomes.get((command, fault), HOLDS)
    if report.when == "teardown":
        verdicts.write({(command, fault): outcomes[command, fault]}, {command: seconds[command]})
    return report
