"""How sure the differences between runs are: intervals, and paired tests against the main run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ldm.metrics.results.intervals import paired_p_value
from ldm.report.formats import aligned
from ldm.report.runs import Run, columns
from ldm.report.table import Column


class Comparison(NamedTuple):
    """A run's metric: its mean with its interval, and how it differs from the main run on the same items.

    Args:
        run: its name.
        mean: as the table shows it.
        interval: of the mean, 95 %, by the bootstrap; `-` where there is none.
        difference: mean minus that of the main run; `-` for the main run itself.
        p: of a permutation test on the items' pairs of values; `-` where there is none.
    """

    run: str
    mean: str
    interval: str
    difference: str
    p: str


def compare(runs: Sequence[Run]) -> list[tuple[Column, list[Comparison]]]:
    """Each metric with a line for each run that has it; the first run is the main one."""
    return [
        (column, [line(column, runs[0], run) for run in runs if column.name in run.details["metrics"]])
        for column in columns(runs)
    ]


def line(column: Column, main: Run, run: Run) -> Comparison:
    """A run's line."""
    number = run.system.numbers[column.name]
    ends = "-" if number.interval is None else " to ".join(column.show(end) for end in number.interval)
    rival = main.system.numbers.get(column.name)
    if run is main or rival is None:
        return Comparison(run.name, column.show(number.mean), ends, "-", "-")
    change = number.mean - rival.mean if math.isfinite(number.mean + rival.mean) else math.nan
    ours, theirs = main.item_values(column.name), run.item_values(column.name)
    frames = sorted(ours.keys() & theirs.keys())
    p = paired_p_value([theirs[frame] for frame in frames], [ours[frame] for frame in frames])
    return Comparison(
        run.name, column.show(number.mean), ends, signed(column, change), "-" if p is None else f"{p:.4f}"
    )


def signed(column: Column, change: float) -> str:
    """A difference as the table shows it; `-` where there is none."""
    return "-" if math.isnan(change) else f"{'+' if change >= 0 else ''}{column.show(change)}"


def text(compared: Sequence[tuple[Column, Sequence[Comparison]]]) -> str:
    """The comparison for a terminal."""
    table = [["metric", "run", "mean", "95 % interval", "difference", "p"]]
    for column, lines in compared:
        table += [[column.heading if place == 0 else "", *each] for place, each in enumerate(lines)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(aligned(row, widths) for row in table)
