"""Compares measured runs: pictures, success, what people preferred, a table beside the paper's, loss curves.

The table is printed, with how sure the differences are; --out writes a page (index.html), table.md, table.tex
and metrics.json too. The first run is the main one, against which the others are tested.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from egogen import cli
from ldm.report.report_options import ReportOptions

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, compares, prints, writes."""
    options = cli.options(ReportOptions, argv, "python -m ldm.report", __doc__)
    from ldm.report import comparison
    from ldm.report.curves import panels
    from ldm.report.formats import WRITERS
    from ldm.report.gallery import open_album
    from ldm.report.page import Page, write
    from ldm.report.preferences import read_preferences
    from ldm.report.preferences import text as preferences_text
    from ldm.report.results_table import make_table
    from ldm.report.runs import read_runs
    from ldm.report.shares import successes

    # It tells of every event file that it has read to the end.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    runs = read_runs(options.runs)
    table = make_table([run.details for run in runs], options.published, "Measured")
    compared = comparison.compare(runs)
    study = None if options.study is None else read_preferences(options.study)
    if options.out:
        shown = open_album(options, runs)
        if shown is None:
            log.info("no pictures on the page: they need --annotations FILE and --frames DIR")
        page = Page(
            options.title, runs, table, compared,
            gallery=shown.cards(options.max_items) if shown else (),
            extremes=shown.extremes() if shown else (),
            panels=panels(options.logs),
            successes=successes(runs),
            study=study,
        )  # fmt: skip
        write(options.out, page)
        log.info("written: %s", options.out / "index.html")
    sys.stdout.write(WRITERS[options.format](table) + "\n")
    if options.format == "text":
        sys.stdout.write(f"\n{comparison.text(compared)}")
        if study is not None:
            sys.stdout.write(f"\n{preferences_text(study)}")


if __name__ == "__main__":
    cli.run(main)
