"""Compares measured runs: a table beside the paper's, how sure the differences are, pictures, loss curves.

The table is printed; --out writes a page (index.html), table.md, table.tex and metrics.json too. The first
run is the main one, against which the others are tested.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from egogen.annotations import DESCRIPTION_KEY, Annotations, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError
from ldm.report import comparison
from ldm.report.curves import panels
from ldm.report.formats import FORMATS
from ldm.report.gallery import Album
from ldm.report.page import Page, make_table, write
from ldm.report.runs import Run, read_runs
from ldm.report.table import NONE, add_published

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    made = parser("python -m ldm.report", __doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder measured by ldm.evaluate")
    made.add_argument("--out", type=Path, help="folder for the page and the tables")
    made.add_argument(
        "--format", choices=list(FORMATS), default="text", help="of the printed table; --out makes HTML"
    )
    made.add_argument("--title", default="LEGO report", help="heading of the page")
    made.add_argument("--annotations", type=Path, help="annotation file, for the gallery")
    made.add_argument("--frames", type=Path, help="split folder that its image paths are relative to")
    made.add_argument("--metadata", type=Path, help="metadata file, to outline boxes on the targets")
    made.add_argument(
        "--llava_key", default=DESCRIPTION_KEY, help="key of the description in the annotation file"
    )
    made.add_argument("--max-items", type=int, default=24, help="size of the gallery")
    made.add_argument(
        "--logs", nargs="+", default=[], metavar="[TITLE=]DIR", help="TensorBoard logs, for loss curves"
    )
    add_published(made)
    return made.parse_args(argv)


def album(args: argparse.Namespace, runs: Sequence[Run]) -> Album | None:
    """Where the pictures come from; None without annotations.

    Raises:
        UserError: one of the two flags is missing.
    """
    if args.annotations is None and args.frames is None:
        return None
    if args.annotations is None or args.frames is None:
        raise UserError("the gallery needs both --annotations FILE and --frames DIR; one of them is missing")
    metadata = {} if args.metadata is None else read_metadata(args.metadata)
    return Album(Annotations.read(args.annotations), args.frames, runs, metadata, args.llava_key)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, compares, prints, writes."""
    args = arguments(argv)
    # It tells of every event file that it has read to the end.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    runs = read_runs(args.runs)
    paper = args.published or runs[0].details["dataset"]
    table = make_table(runs, None if paper == NONE else paper)
    compared = comparison.compare(runs)
    if args.out:
        shown = album(args, runs)
        if shown is None:
            log.info("no pictures on the page: they need --annotations FILE and --frames DIR")
        page = Page(
            args.title, runs, table, compared,
            gallery=shown.cards(args.max_items) if shown else (),
            extremes=shown.extremes() if shown else (),
            panels=panels(args.logs),
        )  # fmt: skip
        write(args.out, page)
        log.info("written: %s", args.out / "index.html")
    sys.stdout.write(FORMATS[args.format](table) + "\n")
    if args.format == "text":
        sys.stdout.write(f"\n{comparison.text(compared)}\n")


if __name__ == "__main__":
    run(main)
