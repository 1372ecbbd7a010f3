"""How sure the differences between runs are: intervals, and paired tests against the main run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from egogen.errors import UserError
from egogen.table import text_table
from ldm.metrics.results.result_files import number
from ldm.report.results_table import Column, columns_of
from ldm.report.runs import Run

LEVEL = 0.05  # of significance


class Comparison(NamedTuple):
    """A run's metric and how it differs from the main run on the same items; `-` where there is nothing."""

    run: str
    mean: str
    interval: str  # of the mean, 95 %, by the bootstrap
    difference: str = "-"  # mean minus that of the main run
    p: str = "-"  # of a permutation test on the items' pairs of values


def compare(runs: Sequence[Run]) -> list[tuple[Column, list[Comparison]]]:
    """Each metric with a line for each run that has it; the first run is the main one."""
    return [
        (column, [line(column, runs[0], run) for run in runs if column.name in run.details["metrics"]])
        for column in columns_of(run.details for run in runs)
    ]


def line(column: Column, main: Run, run: Run) -> Comparison:
    """A run's line."""
    entry, rival = (each.details["metrics"].get(column.name) for each in (run, main))
    assert entry is not None
    mean, ends = number(entry["mean"]), entry["interval_95"]
    shown = column.show(mean), "-" if ends is None else " to ".join(map(column.show, ends))
    if run is main or rival is None:
        return Comparison(run.name, *shown)
    change = mean - number(rival["mean"])
    difference = f"{'+' if change >= 0 else ''}{column.show(change)}" if math.isfinite(change) else "-"
    return Comparison(run.name, *shown, difference, p_text(run.p_value(main, column.name)))


def p_text(p: float | None) -> str:
    """A probability as tables show it; `-` where there is none."""
    return "-" if p is None else f"{p:.4f}"


def text(compared: Sequence[tuple[Column, Sequence[Comparison]]]) -> str:
    """The comparison for a terminal."""
    return text_table(
        ["metric", "run", "mean", "95 % interval", "difference", "p"],
        [
            [column.heading if place == 0 else "", *each]
            for column, lines in compared
            for place, each in enumerate(lines)
        ],
    )


def verdict(first: Run, second: Run, metric: str) -> list[str]:
    """Compares two runs on the same items.

    Returns:
        The claim, both means, the p-value of a permutation test on the items' pairs of values, the verdict.

    Raises:
        UserError: a run was measured without the metric.
    """
    for each in (first, second):
        if metric not in each.details["metrics"]:
            raise UserError(f"{each.folder}: was measured without {metric!r}")
    a, b = (number(each.details["metrics"][metric]["mean"]) for each in (first, second))
    p = first.p_value(second, metric)
    if p is None:
        outcome = "no test"  # of items, for instance of toy_fid
    elif p >= LEVEL:
        outcome = "undecided"
    else:
        better = a < b if first.details["metrics"][metric]["better"] == "lower" else a > b
        outcome = "holds" if better else "contradicted"
    return [f"{first.name} > {second.name}", f"{a:.3f}", f"{b:.3f}", p_text(p), outcome]
