"""Collects the verdicts of cells, and with `--write-verdicts` writes them into docs/reliability.md."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.faults import verdicts
from tests.faults.cases import HERE
from tests.faults.verdicts import FAILS, HOLDS, Cell

found: dict[Cell, str] = {}
seconds: dict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-verdicts", action="store_true", help="write docs/reliability.md's table")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.partition("test_cell[")[2].removesuffix("]")
    command = next((each for each in HERE if name.startswith(f"{each}-")), None)
    if command is None:
        return
    cell = command, name.removeprefix(f"{command}-")
    seconds[command] += report.duration
    if report.failed:
        found[cell] = FAILS
    elif report.when == "call" and report.passed:
        found.setdefault(cell, HOLDS)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-verdicts", default=False) and found:
        verdicts.write(found, seconds)
