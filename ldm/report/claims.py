"""Tests claims such as `lego>ip2p` on measured runs, item by item, and writes what came out as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.table import text_table


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
    from egogen.files import atomic_open
    from ldm.report.comparison import verdict
    from ldm.report.runs import read_runs

    pairs = [split(claim) for claim in options.claims]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    runs = dict(zip(names, read_runs([options.folder / name for name in names]), strict=True))
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


if __name__ == "__main__":
    cli.run(main)
