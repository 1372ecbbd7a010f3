"""Systems by metrics: what stands in a cell, and what is best in its group."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ldm.metrics.results.published_results import TABLES, published_items, published_results

NONE = "none"  # in place of a data set: the paper's numbers are left out


@dataclass(frozen=True)
class Column:
    """A metric as a table shows it; values are multiplied by `times`, as in the paper's tables."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    times: int = 1

    @property
    def heading(self) -> str:
        """Title, the direction of better values, unit: `PSNR ↑ dB`."""
        return f"{self.title} {'↑' if self.better == 'higher' else '↓'} {self.unit}".strip()

    def show(self, value: float) -> str:
        """A value with as many decimals as it deserves."""
        if math.isinf(value):
            return "∞"
        shown = value * self.times
        return f"{shown:.{2 if self.unit or self.times > 1 or abs(shown) >= 10 else 3}f}"


@dataclass(frozen=True)
class Number:
    """A metric of a system; published ones have a mean alone."""

    mean: float
    standard_error: float | None = None
    interval: Sequence[float] | None = None
    n: int | None = None


@dataclass(frozen=True)
class System:
    """A row: a measured run or a line of the paper's tables."""

    name: str
    numbers: Mapping[str, Number]


@dataclass(frozen=True)
class Group:
    """Systems that were measured on the same items, so that they can be ranked."""

    title: str
    systems: Sequence[System]

    def rank(self, system: System, column: Column) -> int | None:
        """1 for the best mean of a group, 2 for the second, None for others; a lone system has no rival."""
        means = {other.numbers[column.name].mean for other in self.systems if column.name in other.numbers}
        if column.name not in system.numbers or len(means) < 2:
            return None
        ordered = sorted(means, reverse=column.better == "higher")
        place = ordered.index(system.numbers[column.name].mean) + 1
        return place if place <= 2 else None


@dataclass(frozen=True)
class Table:
    """Groups of systems over the same columns."""

    columns: Sequence[Column]
    groups: Sequence[Group]


def cell(system: System, column: Column) -> tuple[str, str]:
    """Mean and standard error as text; the first is `-` where there is no value."""
    number = system.numbers.get(column.name)
    if number is None:
        return "-", ""
    error = number.standard_error
    return column.show(number.mean), "" if error is None else column.show(error)


def columns_of(runs: Iterable[Mapping[str, Mapping[str, Any]]]) -> list[Column]:
    """The metrics of all runs in the order in which they first occur, from the runs' `details.json`."""
    found: dict[str, Column] = {}
    for entries in runs:
        for name, entry in entries.items():
            found.setdefault(
                name, Column(name, entry["title"], entry["unit"], entry["better"], entry["times"])
            )
    return list(found.values())


def measured(name: str, entries: Mapping[str, Mapping[str, Any]]) -> System:
    """A run's row from the metrics of its `details.json`; null is infinite."""
    return System(
        name,
        {
            metric: Number(
                math.inf if entry["mean"] is None else entry["mean"],
                entry["standard_error"],
                entry["interval_95"],
                entry["n"],
            )
            for metric, entry in entries.items()
        },
    )


def add_published(made: argparse.ArgumentParser) -> None:
    """Adds the flag that says whose published numbers stand beside the runs."""
    made.add_argument(
        "--published",
        metavar="DATASET",
        help=f"the paper's numbers: ego4d, epickitchen or {NONE}; without it, those of the runs' data set",
    )


def published(dataset: str, columns: Sequence[Column]) -> list[Group]:
    """The paper's tables of a data set as far as they have the metrics of a table.

    Raises:
        UserError: the paper has no such data set.
    """
    names = {each.name for each in columns}
    groups = []
    for table, title in TABLES.items():
        rows = [
            System(name, {metric: Number(value) for metric, value in values.items() if metric in names})
            for name, values in published_results(dataset, table).items()
        ]
        kept = [row for row in rows if row.numbers]
        if kept:
            groups.append(Group(f"{title} ({dataset}, {published_items(dataset):,} items)", kept))
    return groups
