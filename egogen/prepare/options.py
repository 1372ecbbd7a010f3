"""The flags that all sources of `egogen.prepare` share, and the settings that they become."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from egogen.cli import parser
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


@dataclass(frozen=True)
class Judging:
    """The filters that look at extracted pairs with an image model; off without one (F-DA-04).

    Args:
        model: an open_clip weights file, or a folder with a transformers CLIP model.
        architecture: of the weights file, as open_clip names it.
        similarity: lowest and highest cosine of the embeddings of a pair's frames.
        aesthetic_head: a linear layer on these embeddings; the frames' scores go to the manifest.
        min_aesthetic: the lowest score that both frames must have.

    Raises:
        UserError: a file is missing, or flags contradict each other.
    """

    model: Path | None
    architecture: str
    similarity: tuple[float, float]
    aesthetic_head: Path | None
    min_aesthetic: float | None

    def __post_init__(self) -> None:
        if self.model is None:
            for name in ("aesthetic_head", "min_aesthetic"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name.replace('_', '-')} needs --embedder PATH, whose embeddings it scores"
                    )
        if self.min_aesthetic is not None and self.aesthetic_head is None:
            raise UserError("--min-aesthetic needs --aesthetic-head FILE, which scores the frames")
        for path in (self.model, self.aesthetic_head):
            if path is not None and not path.exists():
                raise UserError(
                    f"{path}: no such file or folder; leave the flag out to do without this filter"
                )
        low, high = self.similarity
        if not -1 <= low <= high <= 1:
            raise UserError(f"--similarity {low} {high}: expected -1 <= LOW <= HIGH <= 1")

    def settings(self) -> dict[str, object] | None:
        """What makes the scores what they are, without paths."""
        if self.model is None:
            return None
        head = self.aesthetic_head
        return asdict(self) | {
            "model": checkpoint_hash(self.model),
            "aesthetic_head": None if head is None else checkpoint_hash(head),
        }


@dataclass(frozen=True)
class PrepareOptions:
    """What every source of data needs to know."""

    out: Path
    look: Look
    judging: Judging
    workers: int
    limit: int | None
    dry_run: bool

    def settings(self) -> dict[str, object]:
        """What makes frames and choice what they are; how many processes read changes nothing."""
        return {**asdict(self.look), "judging": self.judging.settings()}


def add_sharpest(made: argparse.ArgumentParser) -> None:
    """The flag of sources that have neighbouring frames (F-DA-03)."""
    made.add_argument(
        "--sharpest", type=int, default=0, metavar="N", help="take the sharpest of N frames before and after"
    )


def arguments(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the shared flags."""
    made = parser(f"python -m egogen.prepare {command}", description)
    made.epilog = EXIT_CODES
    made.add_argument("--out", type=Path, default=data_root(), help="the folder that will hold EgoGen/")
    made.add_argument(
        "--size", type=int, default=256, help="height of the frames in pixels; the aspect is kept"
    )
    made.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 95")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="sources read at a time")
    made.add_argument("--limit", type=int, help="stop after so many pairs; later runs may go on")
    made.add_argument("--dry-run", action="store_true", help="count and estimate; write nothing")
    filters = made.add_argument_group("filters by an image model; off without --embedder")
    filters.add_argument(
        "--embedder", type=Path, metavar="PATH", help="open_clip weights file or CLIP folder"
    )
    filters.add_argument(
        "--embedder-model", default="ViT-L-14", help="open_clip's name of the weights file's model"
    )
    filters.add_argument(
        "--similarity", nargs=2, type=float, metavar=("LOW", "HIGH"), default=[0.81, 0.97],
        help="keep pairs whose frames' embeddings have a cosine between these (the paper's)",
    )  # fmt: skip
    filters.add_argument(
        "--aesthetic-head", type=Path, metavar="FILE", help="linear layer on the embeddings (.pth)"
    )
    filters.add_argument("--min-aesthetic", type=float, help="keep pairs whose frames both score this")
    return made


def options(args: argparse.Namespace, sharpest: int = 0) -> PrepareOptions:
    """Checks the shared flags.

    Raises:
        UserError: a value is out of bounds, or flags contradict each other.
    """
    bounds = {"size": (8, MAX_SIZE), "quality": (1, 95), "workers": (1, None), "limit": (1, None)}
    for name, (low, high) in bounds.items():
        value = getattr(args, name)
        if value is not None and (value < low or (high is not None and value > high)):
            allowed = f"{low} to {high}" if high else f"{low} or more"
            raise UserError(f"--{name} {value}: expected {allowed}")
    if sharpest < 0:
        raise UserError(f"--sharpest {sharpest}: expected 0 or more frames")
    judging = Judging(
        args.embedder, args.embedder_model, tuple(args.similarity), args.aesthetic_head, args.min_aesthetic
    )
    look = Look(args.size, args.quality, sharpest)
    return PrepareOptions(args.out, look, judging, args.workers, args.limit, args.dry_run)
