"""Writes a page that compares measured runs: table, gallery, loss curves. The first run is the main one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from egogen.annotations import DESCRIPTION_KEY, Annotations, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError
from ldm.report import page
from ldm.report.curves import panels
from ldm.report.gallery import Album, Card
from ldm.report.runs import Run, read_runs

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    made = parser("python -m ldm.report", __doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder measured by ldm.evaluate")
    made.add_argument("--out", required=True, type=Path, help="folder for index.html and metrics.json")
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
    made.add_argument(
        "--published", metavar="DATASET", help="show the paper's numbers on ego4d or epickitchen"
    )
    return made.parse_args(argv)


def gallery(args: argparse.Namespace, runs: Sequence[Run]) -> list[Card]:
    """The items to show; none without annotations.

    Raises:
        UserError: one of the two flags is missing, or a picture is.
    """
    if args.annotations is None and args.frames is None:
        return []
    if args.annotations is None or args.frames is None:
        raise UserError("the gallery needs both --annotations FILE and --frames DIR; one of them is missing")
    metadata = {} if args.metadata is None else read_metadata(args.metadata)
    album = Album(Annotations.read(args.annotations), args.frames, runs, metadata, args.llava_key)
    return album.cards(args.max_items)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, draws, writes."""
    args = arguments(argv)
    # It tells of every event file that it has read to the end.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    runs = read_runs(args.runs)
    text = page.html(runs, args.published, gallery(args, runs), panels(args.logs), args.title)
    page.write(args.out, text, page.metrics_json(runs))
    log.info("written: %s", args.out / "index.html")


if __name__ == "__main__":
    run(main)
