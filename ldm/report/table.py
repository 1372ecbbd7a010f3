"""Systems by metrics: what is best, and how it reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """A metric as a table shows it."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]

    @property
    def heading(self) -> str:
        """Title, the direction of better values, unit: `PSNR ↑ dB`."""
        return f"{self.title} {'↑' if self.better == 'higher' else '↓'} {self.unit}".strip()

    def show(self, value: float) -> str:
        """A value with as many decimals as its unit deserves."""
        return "∞" if math.isinf(value) else f"{value:.{2 if self.unit else 3}f}"


@dataclass(frozen=True)
class Number:
    """A metric of a system; published ones have a mean alone."""

    mean: float
    standard_error: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class System:
    """A row: a measured run or a line of the paper's table."""

    name: str
    numbers: Mapping[str, Number]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """Systems in the order given; `best` is told among measured systems alone."""

    columns: Sequence[Column]
    systems: Sequence[System]

    def is_best(self, system: System, column: Column) -> bool:
        """Whether no other measured system has a better mean; a lone system has no rival."""
        means = [
            other.numbers[column.name].mean
            for other in self.systems
            if not other.published and column.name in other.numbers
        ]
        if system.published or column.name not in system.numbers or len(means) < 2:
            return False
        best = max(means) if column.better == "higher" else min(means)
        return system.numbers[column.name].mean == best

    def cell(self, system: System, column: Column) -> tuple[str, str]:
        """Mean and standard error as text; the first is `-` where there is no value."""
        number = system.numbers.get(column.name)
        if number is None:
            return "-", ""
        error = number.standard_error
        return column.show(number.mean), "" if error is None else column.show(error)

    def text(self) -> str:
        """The table for a terminal."""
        rows = [["", *(column.heading for column in self.columns)]]
        for system in self.systems:
            cells = [self.cell(system, column) for column in self.columns]
            name = f"{system.name} (published)" if system.published else system.name
            rows.append([name, *(f"{mean} ± {error}" if error else mean for mean, error in cells)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def columns_of(runs: Iterable[Mapping[str, Mapping[str, Any]]]) -> list[Column]:
    """The metrics of all runs in the order in which they first occur, from the runs' `details.json`."""
    found: dict[str, Column] = {}
    for entries in runs:
        for name, entry in entries.items():
            found.setdefault(name, Column(name, entry["title"], entry["unit"], entry["better"]))
    return list(found.values())


def measured(name: str, entries: Mapping[str, Mapping[str, Any]]) -> System:
    """A run's row from the metrics of its `details.json`; null is infinite."""
    return System(
        name,
        {
            metric: Number(
                math.inf if entry["mean"] is None else entry["mean"], entry["standard_error"], entry["n"]
            )
            for metric, entry in entries.items()
        },
    )


def published(results: Mapping[str, Mapping[str, float]], columns: Sequence[Column]) -> list[System]:
    """The paper's rows for the metrics of a table; none where no metric is in both."""
    names = {each.name for each in columns}
    rows = [
        System(
            name,
            {metric: Number(value) for metric, value in values.items() if metric in names},
            published=True,
        )
        for name, values in results.items()
    ]
    return [row for row in rows if row.numbers]
