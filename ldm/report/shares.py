"""Shares as the page shows them, bars with intervals: how often a system is right, or preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ldm.metrics.results.intervals import wilson
from ldm.metrics.results.result_files import number
from ldm.report.results_table import Column, columns_of
from ldm.report.runs import Run


class Share(NamedTuple):
    """A system's share in percent with the ends of its 95 % interval, where there is one."""

    name: str
    percent: float
    interval: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """Such as `83 %`."""
        return f"{self.percent:.0f} %"

    @property
    def range(self) -> str:
        """Such as `74 to 89 %`; empty without an interval."""
        return "" if self.interval is None else f"{self.interval[0]:.0f} to {self.interval[1]:.0f} %"


def successes(runs: Sequence[Run]) -> list[tuple[Column, list[Share]]]:
    """The shares of each yes-or-no metric, a line for each run that has it."""
    return [
        (column, [success(run, column.name) for run in runs if column.name in run.details["metrics"]])
        for column in columns_of(run.details for run in runs)
        if is_binary(runs, column.name)
    ]


def is_binary(runs: Sequence[Run], metric: str) -> bool:
    """Whether a metric says yes or no of each item."""
    entries: list[Mapping[str, object]] = [
        run.details["metrics"][metric] for run in runs if metric in run.details["metrics"]
    ]
    return any(bool(entry["binary"]) for entry in entries)


def success(run: Run, metric: str) -> Share:
    """How often a run is right."""
    entry = run.details["metrics"][metric]
    return share_of(run.name, round(number(entry["mean"]) * entry["n"]), entry["n"])


def share_of(name: str, count: int, total: int) -> Share:
    """A share with its Wilson interval, which takes what is counted for independent."""
    ends = wilson(count, total)
    return Share(name, 100 * count / max(total, 1), None if ends is None else (100 * ends[0], 100 * ends[1]))
