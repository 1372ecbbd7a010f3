"""What fewer UNet passes a frame cost: rows of several seeds, held to limits, as tables, curves and a page.

Each SEED holds <system>/<passes>/ for every row, drawn by ldm.sample and measured by ldm.evaluate. An item's
value is its mean over the seeds; intervals and tests are over items.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassesOptions:
    """The rows, what they are held to, and the page."""

    seeds: list[Path] = flag(
        "folder of <system>/<passes>/ rows", positional=True, nargs="+", type=Path, metavar="SEED"
    )
    out: Path = flag("folder for the page and the tables", type=Path, required=True)
    limits: list[str] = flag(
        "what a row may lose, such as 'phases/4 within 0.05 of teacher/60 in toy_success'; or 5%%",
        nargs="+", default=[], metavar="LIMIT",
    )  # fmt: skip
    reference: str | None = flag("row whose frames all others are compared with, in PSNR", metavar="ROW")
    curves: list[str] = flag("metrics to draw over passes", nargs="+", default=["toy_success", "toy_fid"])
    show: list[str] = flag("rows of the gallery", nargs="+", default=[], metavar="ROW")
    annotations: Path | None = flag("annotation file, for the gallery", type=Path)
    frames: Path | None = flag("split folder that its image paths are relative to", type=Path)
    llava_key: str = flag("key of the description there", spelled=("--llava_key",), default=DESCRIPTION_KEY)
    max_items: int = flag("items of the gallery", type=int, default=12)
    title: str = flag("heading of the page", default="Fewer UNet passes a frame")

    def __post_init__(self) -> None:
        if self.show and (self.annotations is None or self.frames is None):
            raise UserError("--show needs --annotations FILE and --frames DIR, which hold what is shown")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, judges, prints, writes."""
    options = cli.options(PassesOptions, argv, "python -m ldm.report.passes", __doc__)
    from ldm.report.passes_page import judged_text, rows_text, write
    from ldm.report.seed_rows import judge, parse_limit, read_rows

    limits = [parse_limit(text) for text in options.limits]
    rows = read_rows(options.seeds)
    judged = [judge(limit, rows) for limit in limits]
    write(options, rows, judged)
    sys.stdout.write(rows_text(rows) + (f"\n{judged_text(judged)}" if judged else ""))
    log.info("written: %s", options.out / "index.html")


if __name__ == "__main__":
    cli.run(main)
