"""Systems by metrics: what stands in a cell, and what is best in its group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ldm.metrics.results.published_results import TABLES, published_results, read_published
from ldm.metrics.results.result_files import Details, number
from ldm.report.report_options import NONE


class Column(NamedTuple):
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


class Number(NamedTuple):
    """A metric of a system; published ones have a mean alone."""

    mean: float
    standard_error: float | None = None


class System(NamedTuple):
    """A row: a measured run or a line of the paper's tables."""

    name: str
    numbers: Mapping[str, Number]


@dataclass(frozen=True)
class SystemGroup:
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


class Table(NamedTuple):
    """Groups of systems over the same columns."""

    columns: Sequence[Column]
    groups: Sequence[SystemGroup]


def cell(system: System, column: Column) -> tuple[str, str]:
    """Mean and standard error as text; the first is `-` where there is no value."""
    found = system.numbers.get(column.name)
    if found is None:
        return "-", ""
    return column.show(found.mean), "" if found.standard_error is None else column.show(found.standard_error)


def make_table(details: Sequence[Details], paper: str | None, title: str = "") -> Table:
    """Measured runs above the paper's rows, as far as these have the runs' metrics.

    Args:
        details: of the runs.
        paper: the data set of the paper's rows; None for the runs' own, `NONE` for no such rows.
        title: of the runs' group, where there are others.

    Raises:
        UserError: the paper has no such data set.
    """
    columns = columns_of(details)
    systems = [
        System(
            each["name"],
            {
                metric: Number(number(entry["mean"]), entry["standard_error"])
                for metric, entry in each["metrics"].items()
            },
        )
        for each in details
    ]
    paper = paper or details[0]["dataset"]
    groups = [] if paper == NONE else published(paper, columns)
    return Table(columns, [SystemGroup(title if groups else "", systems), *groups])


def columns_of(details: Iterable[Details]) -> list[Column]:
    """The metrics of all runs, in the order in which they first occur."""
    found: dict[str, Column] = {}
    for each in details:
        for name, entry in each["metrics"].items():
            found.setdefault(
                name, Column(name, entry["title"], entry["unit"], entry["better"], entry["times"])
            )
    return list(found.values())


def published(dataset: str, columns: Sequence[Column]) -> list[SystemGroup]:
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
            items = read_published().items[dataset]
            groups.append(SystemGroup(f"{title} ({dataset}, {items:,} items)", kept))
    return groups
