"""Tests claims such as `lego>ip2p` on measured runs, item by item, and writes what came out as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.table import text_table
from ldm.metrics.results.result_files import number
from ldm.report.comparison import p_text
from ldm.report.runs import Run, read_runs

LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class ClaimOptions:
    """The runs and the claims."""

    folder: Path = flag("holds the measured runs", positional=True, type=Path)
    claims: list[str] = flag("run A is better than run B", positional=True, nargs="+", metavar="A>B")
    metric: str = flag("in which metric", default="toy_success")
    out: Path = flag("the Markdown file to write", type=Path, required=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the runs, tests each claim, prints and writes the table."""
    options = cli.options(ClaimOptions, argv, "python -m ldm.report.claims", __doc__)
    pairs = [split(claim) for claim in options.claims]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    runs = {each.folder.name: each for each in read_runs([options.folder / name for name in names])}
    written = text_table(
        [f"claim, by {options.metric}", "first", "second", "p", "verdict"],
        [verdict(runs[first], runs[second], options.metric) for first, second in pairs],
        markdown=True,
    )
    with atomic_open(options.out) as file:
        file.write(written.encode())
    sys.stdout.write(written)


def split(claim: str) -> tuple[str, str]:
    """Both sides of a claim; a `UserError` tells that it has none."""
    first, _, second = claim.partition(">")
    if not (first and second) or first == second:
        raise UserError(f"{claim!r}: expected A>B, two runs, such as 'lego>ip2p'")
    return first, second


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


if __name__ == "__main__":
    cli.run(main)
