"""Compares measured runs: a table beside the paper's, how sure the differences are, pictures, loss curves.

The table is printed; --out writes a page (index.html), table.md, table.tex and metrics.json too. The first
run is the main one, against which the others are tested.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.annotations import DESCRIPTION_KEY, Annotations, read_metadata
from egogen.cli import flag
from egogen.errors import UserError
from ldm.report import comparison
from ldm.report.curves import panels
from ldm.report.formats import FORMATS
from ldm.report.gallery import Album
from ldm.report.page import Page, write
from ldm.report.results_table import PUBLISHED, make_table
from ldm.report.runs import Run, read_runs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportOptions:
    """The runs, what is made of them, and where pictures and curves come from."""

    runs: list[Path] = flag(
        "a folder measured by ldm.evaluate", positional=True, nargs="+", type=Path, metavar="RUN"
    )
    out: Path | None = flag("folder for the page and the tables", type=Path)
    format: str = flag("of the printed table; --out makes HTML", choices=list(FORMATS), default="text")
    title: str = flag("heading of the page", default="LEGO report")
    annotations: Path | None = flag("annotation file, for the gallery", type=Path)
    frames: Path | None = flag("split folder that its image paths are relative to", type=Path)
    metadata: Path | None = flag("metadata file, to outline boxes on the targets", type=Path)
    llava_key: str = flag(
        "key of the description in the annotation file", spelled=("--llava_key",), default=DESCRIPTION_KEY
    )
    max_items: int = flag("size of the gallery", type=int, default=24)
    logs: list[str] = flag("TensorBoard logs, for loss curves", nargs="+", default=[], metavar="[TITLE=]DIR")
    published: str | None = flag(PUBLISHED, metavar="DATASET")

    def album(self, runs: Sequence[Run]) -> Album | None:
        """Where the pictures come from; None without annotations. A `UserError` tells of half the flags."""
        if self.annotations is None and self.frames is None:
            return None
        if self.annotations is None or self.frames is None:
            raise UserError(
                "the gallery needs both --annotations FILE and --frames DIR; one of them is missing"
            )
        metadata = {} if self.metadata is None else read_metadata(self.metadata)
        return Album(Annotations.read(self.annotations), self.frames, runs, metadata, self.llava_key)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, compares, prints, writes."""
    options = cli.options(ReportOptions, argv, "python -m ldm.report", __doc__)
    # It tells of every event file that it has read to the end.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    runs = read_runs(options.runs)
    table = make_table([run.details for run in runs], options.published, "Measured")
    compared = comparison.compare(runs)
    if options.out:
        shown = options.album(runs)
        if shown is None:
            log.info("no pictures on the page: they need --annotations FILE and --frames DIR")
        page = Page(
            options.title, runs, table, compared,
            gallery=shown.cards(options.max_items) if shown else (),
            extremes=shown.extremes() if shown else (),
            panels=panels(options.logs),
        )  # fmt: skip
        write(options.out, page)
        log.info("written: %s", options.out / "index.html")
    sys.stdout.write(FORMATS[options.format](table) + "\n")
    if options.format == "text":
        sys.stdout.write(f"\n{comparison.text(compared)}")


if __name__ == "__main__":
    cli.run(main)
