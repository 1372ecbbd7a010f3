"""Tells what is in an EgoGen data set: counts, words, lengths, sizes; with --out, a page of examples."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.layout import FOLDERS, Layout
from egogen.stats.measure import measure
from egogen.stats.stats_page import page
from egogen.stats.summary import summary
from egogen.validate.whole import present, splits_of

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    made = parser("python -m egogen.stats", __doc__)
    made.add_argument("root", type=Path, metavar="ROOT", help="the folder that holds EgoGen/")
    made.add_argument("--dataset", choices=list(FOLDERS), help="one data set; else those that are there")
    made.add_argument("--out", type=Path, metavar="FILE.html", help="write a page with examples")
    made.add_argument("--examples", type=int, default=12, help="of each split on the page")
    made.add_argument("--top", type=int, default=12, help="how many verbs, nouns and sizes to show")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes the page."""
    args = arguments().parse_args(argv)
    for name, least in (("workers", 1), ("top", 1), ("examples", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: expected {least} or more")
    layouts = [Layout(args.root, name) for name in present(args.root, args.dataset)]
    splits = [measure(layout, split, args.workers) for layout in layouts for split in splits_of(layout)]
    sys.stdout.write(summary(splits, args.top))
    if args.out:
        with atomic_open(args.out) as file:
            file.write(page(splits, args.top, args.examples, f"{args.root}").encode())
        log.info("examples: %s", args.out)


if __name__ == "__main__":
    run(main)
