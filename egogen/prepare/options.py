"""The flags that all sources of `egogen.prepare` share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import data_root
from egogen.manifest import checkpoint_hash
from egogen.prepare.frames.extract import Look

MAX_SIZE = 4096
# Exit codes: 2 is a mistake, 130 is Ctrl-C.
BROKEN_BASE, MOST_BROKEN = 10, 100
EXIT_CODES = (
    f"Exit code: 0, all went well; {BROKEN_BASE} + n, n sources (videos, frame folders, images; n is at most "
    f"{MOST_BROKEN}) were missing, broken or cut off, and their actions are left out; 2, a mistake in the "
    "command or in an input file; 130, interrupted. The same command goes on where it stopped."
)
FILTERS = "filters by an image model; off without --embedder"
Options = TypeVar("Options", bound="PrepareOptions")


@dataclass(frozen=True)
class PrepareOptions:
    """What every source of data needs to know.

    The filters look at extracted pairs with an image model (F-DA-04).

    Raises:
        UserError: a value is out of bounds, a file is missing, or flags contradict each other.
    """

    out: Path = flag("the folder that will hold EgoGen/", type=Path, default=data_root)
    size: int = flag("height of the frames in pixels; the aspect is kept", type=int, default=256)
    quality: int = flag("JPEG quality, 1 to 95", type=int, default=95)
    workers: int = flag("sources read at a time", type=int, default=lambda: os.cpu_count() or 1)
    limit: int | None = flag("stop after so many pairs; later runs may go on", type=int)
    dry_run: bool = flag("count and estimate; write nothing", action="store_true")
    embedder: Path | None = flag(
        "open_clip weights file or CLIP folder", type=Path, metavar="PATH", group=FILTERS
    )
    embedder_model: str = flag(
        "open_clip's name of the weights file's model", default="ViT-L-14", group=FILTERS
    )
    similarity: Sequence[float] = flag(
        "keep pairs whose frames' embeddings have a cosine between these (the paper's)",
        nargs=2, type=float, metavar=("LOW", "HIGH"), default=[0.81, 0.97], group=FILTERS,
    )  # fmt: skip
    aesthetic_head: Path | None = flag(
        "linear layer on the embeddings (.pth)", type=Path, metavar="FILE", group=FILTERS
    )
    min_aesthetic: float | None = flag("keep pairs whose frames both score this", type=float, group=FILTERS)

    def __post_init__(self) -> None:
        bounds = {"size": (8, MAX_SIZE), "quality": (1, 95), "workers": (1, None), "limit": (1, None)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                allowed = f"{low} to {high}" if high else f"{low} or more"
                raise UserError(f"--{name} {value}: expected {allowed}")
        for name in ("aesthetic-head", "min-aesthetic"):
            if self.embedder is None and getattr(self, name.replace("-", "_")) is not None:
                raise UserError(f"--{name} needs --embedder PATH, whose embeddings it scores")
        if self.min_aesthetic is not None and self.aesthetic_head is None:
            raise UserError("--min-aesthetic needs --aesthetic-head FILE, which scores the frames")
        for path in (self.embedder, self.aesthetic_head):
            if path is not None and not path.exists():
                raise UserError(
                    f"{path}: no such file or folder; leave the flag out to do without this filter"
                )
        least, most = self.similarity
        if not -1 <= least <= most <= 1:
            raise UserError(f"--similarity {least} {most}: expected -1 <= LOW <= HIGH <= 1")

    @property
    def look(self) -> Look:
        """How frames are chosen and written."""
        return Look(self.size, self.quality, 0)

    def settings(self) -> dict[str, object]:
        """What makes frames and choice what they are, without paths and processes."""
        judging = None
        if self.embedder is not None:
            head = self.aesthetic_head
            judging = {
                "model": checkpoint_hash(self.embedder),
                "architecture": self.embedder_model,
                "similarity": self.similarity,
                "aesthetic_head": None if head is None else checkpoint_hash(head),
                "min_aesthetic": self.min_aesthetic,
            }
        return {**self.look._asdict(), "judging": judging}


@dataclass(frozen=True)
class NeighbourOptions(PrepareOptions):
    """Those of sources that have neighbouring frames (F-DA-03)."""

    sharpest: int = flag("take the sharpest of N frames before and after", type=int, default=0, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sharpest < 0:
            raise UserError(f"--sharpest {self.sharpest}: expected 0 or more frames")

    @property
    def look(self) -> Look:
        """How frames are chosen and written."""
        return Look(self.size, self.quality, self.sharpest)


def read(kind: type[Options], argv: Sequence[str] | None, command: str, description: str | None) -> Options:
    """Reads the flags of a source's command."""
    return cli.options(kind, argv, f"python -m egogen.prepare {command}", description, EXIT_CODES)
