"""The flags of `python -m ldm.report`, and those that other commands with tables share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY

NONE = "none"  # in place of a data set: the paper's numbers are left out
PUBLISHED = (
    f"the paper's numbers: ego4d, epickitchen or {NONE}; without it, those of the runs' data set if they are "
    "of as many pairs as its test set has"
)
FORMATS = ("text", "terminal", "markdown", "latex")


@dataclass(frozen=True)
class ReportOptions:
    """The runs, what is made of them, and where pictures and curves come from."""

    runs: list[Path] = flag(
        "a folder measured by ldm.evaluate", positional=True, nargs="+", type=Path, metavar="RUN"
    )
    out: Path | None = flag("folder for the page and the tables", type=Path)
    format: str = flag("of the printed table; --out makes HTML", choices=FORMATS, default="text")
    title: str = flag("heading of the page", default="LEGO report")
    annotations: Path | None = flag("annotation file, for the gallery", type=Path)
    frames: Path | None = flag("split folder that its image paths are relative to", type=Path)
    metadata: Path | None = flag("metadata file, to outline boxes on the targets", type=Path)
    llava_key: str = flag(
        "key of the description in the annotation file", spelled=("--llava_key",), default=DESCRIPTION_KEY
    )
    max_items: int = flag("size of the gallery", type=int, default=24)
    logs: list[str] = flag("TensorBoard logs, for loss curves", nargs="+", default=[], metavar="[TITLE=]DIR")
    study: Path | None = flag("answers.csv of ldm.study: what people preferred", type=Path)
    published: str | None = flag(PUBLISHED, metavar="DATASET")

    def __post_init__(self) -> None:
        if (self.annotations is None) != (self.frames is None):
            raise UserError(
                "the gallery needs both --annotations FILE and --frames DIR; one of them is missing"
            )
