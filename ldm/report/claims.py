"""Tests claims such as `lego>ip2p` on measured runs, item by item, and writes what came out as Markdown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open
from ldm.metrics.results.intervals import paired_p_value
from ldm.report.runs import Run, read_runs

log = logging.getLogger(__name__)
LEVEL = 0.05  # of significance


class Verdict(NamedTuple):
    """A claim, both means, and the p-value of a permutation test on the items' pairs of values."""

    claim: str
    first: float
    second: float
    p: float | None
    verdict: str


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the runs, tests each claim, prints and writes the table."""
    made = parser("python -m ldm.report.claims", __doc__)
    made.add_argument("folder", type=Path, help="holds the measured runs")
    made.add_argument("claims", nargs="+", metavar="A>B", help="run A is better than run B")
    made.add_argument("--metric", default="toy_success", help="in which metric")
    made.add_argument("--out", type=Path, required=True, help="the Markdown file to write")
    args = made.parse_args(argv)
    pairs = [split(claim) for claim in args.claims]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    runs = {each.folder.name: each for each in read_runs([args.folder / name for name in names])}
    written = table([test(runs[first], runs[second], args.metric) for first, second in pairs], args.metric)
    with atomic_open(args.out) as file:
        file.write(written.encode())
    sys.stdout.write(written)


def split(claim: str) -> tuple[str, str]:
    """Both sides of a claim.

    Raises:
        UserError: it has no two sides.
    """
    first, _, second = claim.partition(">")
    if not (first and second) or first == second:
        raise UserError(f"{claim!r}: expected A>B, two runs, such as 'lego>ip2p'")
    return first, second


def test(first: Run, second: Run, metric: str) -> Verdict:
    """Compares two runs on the same items.

    Raises:
        UserError: a run was measured without the metric.
    """
    for each in (first, second):
        if metric not in each.details["metrics"]:
            raise UserError(f"{each.folder}: was measured without {metric!r}")
    a, b = (float(each.details["metrics"][metric]["mean"]) for each in (first, second))
    ours, theirs = first.item_values(metric), second.item_values(metric)
    frames = sorted(ours)
    p = paired_p_value([ours[frame] for frame in frames], [theirs[frame] for frame in frames])
    better = a < b if first.details["metrics"][metric]["better"] == "lower" else a > b
    name = f"{first.name} > {second.name}"
    if p is None:
        return Verdict(name, a, b, p, "no test")  # of items, for instance of toy_fid
    verdict = "undecided" if p >= LEVEL else "holds" if better else "contradicted"
    return Verdict(name, a, b, p, verdict)


def table(verdicts: Sequence[Verdict], metric: str) -> str:
    """The verdicts as Markdown."""
    lines = [f"| claim, by {metric} | first | second | p | verdict |", "|---|---|---|---|---|"]
    for claim, first, second, p, verdict in verdicts:
        shown = "-" if p is None else f"{p:.4f}"
        lines.append(f"| {claim} | {first:.3f} | {second:.3f} | {shown} | {verdict} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run(main)
