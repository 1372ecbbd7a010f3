"""Tells what is in an EgoGen data set: counts, words, lengths, sizes; with --out, a page of examples."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import FOLDERS, Layout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatsOptions:
    """What is measured, and how much of it is shown."""

    root: Path = flag("the folder that holds EgoGen/", positional=True, type=Path, metavar="ROOT")
    dataset: str | None = flag("one data set; else those that are there", choices=list(FOLDERS))
    out: Path | None = flag("write a page with examples", type=cli.report_file(".html"), metavar="FILE.html")
    examples: int = flag("of each split on the page", type=int, default=12)
    top: int = flag("how many verbs, nouns and sizes to show", type=int, default=12)
    workers: int = flag("threads", type=cli.workers, default=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("examples", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: expected {least} or more")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes the page."""
    options = cli.options(StatsOptions, argv, "python -m egogen.stats", __doc__)
    from egogen.files import atomic_open
    from egogen.stats.measure import measure, summary
    from egogen.stats.stats_page import page
    from egogen.validate.whole import present, splits_of

    layouts = [Layout(options.root, name) for name in present(options.root, options.dataset)]
    splits = [measure(layout, split, options.workers) for layout in layouts for split in splits_of(layout)]
    sys.stdout.write(summary(splits, options.top))
    if options.out:
        with atomic_open(options.out) as file:
            file.write(
                page(splits, options.top, options.examples, f"{options.root}").encode("utf-8", "replace")
            )
        log.info("examples: %s", options.out)


if __name__ == "__main__":
    cli.run(main)
