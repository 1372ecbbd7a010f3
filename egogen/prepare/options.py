"""The flags of all subcommands of `egogen.prepare`: sources that are read, formats that are written."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import get_args

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError, check
from egogen.layout import DESCRIPTION_KEY, FOLDERS, Split, check_outside, data_root
from egogen.prepare.frames.look import Look
from egogen.shards import SHARD, parse_auto, parse_shard

MAX_SIZE = 4096
# Exit codes: 2 is a mistake, 130 is Ctrl-C.
BROKEN_BASE, MOST_BROKEN = 10, 100
EXIT_CODES = (
    f"Exit code: 0, all went well; {BROKEN_BASE} + n, n sources (videos, frame folders, images; n is at most "
    f"{MOST_BROKEN}) were missing, broken or cut off, and their actions are left out; 2, a mistake in the "
    "command or in an input file; 130, interrupted. The same command goes on where it stopped."
)
FILTERS = "filters by an image model; off without --embedder"
BENCHMARKS = ("fho_lta", "fho_oscc-pnr")
# The frames that Ego4D's annotators chose of an action, in the order of time.
CRITICAL_FRAMES = ("pre_45", "pre_30", "pre_15", "pre_frame", "contact_frame", "pnr_frame", "post_frame")
# What a Parquet file's prompt may be, and the key of that text in the annotations.
PROMPTS = {"description": DESCRIPTION_KEY, "action": "action"}


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
    workers: int = flag("sources read at a time", type=cli.workers, default=lambda: os.cpu_count() or 1)
    patience: float = flag(
        "seconds without a new pair after which a source's decoder is ended", type=float, default=3600.0
    )
    limit: int | None = flag("stop after so many pairs; later runs may go on", type=int)
    shard: str | None = flag(
        f"of the sources: {SHARD}. With i/n frames alone are made; the command without it joins the shards",
        metavar="I/N|auto",
    )
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
        if self.shard is not None and parse_auto(self.shard) is None:
            parse_shard(self.shard)
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
        check("--patience", self.patience, "seconds above 0", self.patience > 0)
        score = self.min_aesthetic
        check("--min-aesthetic", score, "a number", score is None or math.isfinite(score))
        least, most = self.similarity
        if not -1 <= least <= most <= 1:
            raise UserError(f"--similarity {least} {most}: expected -1 <= LOW <= HIGH <= 1")

    @property
    def look(self) -> Look:
        """How frames are chosen and written."""
        return Look(self.size, self.quality, 0)

    def settings(self) -> dict[str, object]:
        """What makes frames and choice what they are, without paths and processes."""
        from egogen.manifest import checkpoint_hash

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


def benchmark(name: str) -> str:
    """`oscc-pnr` is short for `fho_oscc-pnr`."""
    return name if name.startswith("fho_") else f"fho_{name}"


@dataclass(frozen=True)
class Ego4DOptions(NeighbourOptions):
    """Which actions make pairs, and of which frames."""

    annotations: Path = flag("Ego4D's v2/annotations", type=Path, required=True, metavar="DIR")
    clips: Path | None = flag(
        "v2/clips or v2/clips_540ss: CLIP_UID.mp4", type=Path, metavar="DIR", either=True
    )
    videos: Path | None = flag("full videos: VIDEO_UID.mp4", type=Path, metavar="DIR", either=True)
    split_from: str = flag(
        "the benchmark whose train and val files say which split a clip is in",
        choices=BENCHMARKS, default=BENCHMARKS[0], type=benchmark,
    )  # fmt: skip
    # Ours: the paper does not say which frames (F-DA-01).
    input: str = flag("critical frame that is the input", choices=CRITICAL_FRAMES, default="pre_15")
    target: str = flag("and the target", choices=CRITICAL_FRAMES, default="pnr_frame")
    min_window: float = flag(
        "leave out actions annotated in a shorter window; the benchmarks' loaders use 8",
        type=float, default=0.0, metavar="SEC",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check("--min-window", self.min_window, "seconds, 0 or more", 0 <= self.min_window < math.inf)


def not_negative(text: str) -> Fraction:
    """An exact number from 0 on."""
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        number = Fraction(-1)
    if number < 0:
        raise ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return number


@dataclass(frozen=True)
class EpicOptions(NeighbourOptions):
    """Which table and frames, and where in an action its frames are."""

    csv: Path = flag("EPIC_100_train.csv or _validation.csv", type=Path, required=True, metavar="FILE")
    frames: Path | None = flag(
        "folders P01_11 or tar files P01_11.tar of frames", type=Path, metavar="DIR", either=True
    )
    videos: Path | None = flag("P01_11.MP4 ...", type=Path, metavar="DIR", either=True)
    # Ours: the paper does not say how long before and after (F-DA-02).
    before: Fraction = flag(
        "the input is so long before the action starts", type=not_negative, default="0.25", metavar="SEC"
    )
    after: Fraction | None = flag(
        "the target is so long after it starts", type=not_negative, metavar="SEC", either="target"
    )
    after_fraction: Fraction = flag(
        "or after this part of it", type=not_negative, default="0.6", metavar="F", either="target"
    )
    split: Split | None = flag("by default as the table's name says", choices=get_args(Split))
    video_info: Path | None = flag("EPIC_100_video_info.csv: true sizes and rates", type=Path, metavar="FILE")


@dataclass(frozen=True)
class FolderOptions(PrepareOptions):
    """Which table, and where its pairs go."""

    pairs: Path = flag("a .csv, .jsonl or .parquet table", type=Path, required=True, metavar="FILE")
    split: Split = flag("of rows that name none", choices=get_args(Split), default="train")
    val_share: float | None = flag(
        "of the clips whose rows name no split, the share that goes to val, chosen by their names",
        type=float, metavar="SHARE",
    )  # fmt: skip
    dataset: str = flag(
        "whose place to take: epickitchen for plain labels, ego4d for such as '#C C cuts the carrot'",
        choices=list(FOLDERS), default="epickitchen",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise UserError(f"--val-share {self.val_share}: expected a number between 0 and 1")


@dataclass(frozen=True)
class HubOptions:
    """Which download, and where it goes."""

    source: Path = flag("the folder of the download", positional=True, type=Path, metavar="SRC")
    out: Path = flag("is to hold EgoGen/", type=Path, required=True, metavar="DATA_ROOT")
    workers: int = flag("threads of the final check", type=cli.workers, default=lambda: os.cpu_count() or 1)


@dataclass(frozen=True)
class ExportOptions:
    """The flags of all exports."""

    root: Path = flag("the folder that holds EgoGen/", positional=True, type=Path, metavar="ROOT")
    dataset: str = flag("whose frames", choices=list(FOLDERS), required=True)
    split: Split = flag("which of them", choices=["train", "val"], required=True)
    out: Path = flag("may hold several splits", type=Path, required=True, metavar="DIR")
    annotations: Path | None = flag("instead of the one in EgoGen/", type=Path, metavar="FILE")
    samples_per_shard: int = flag("actions in a file", type=int, default=1000)

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError(f"--samples-per-shard {self.samples_per_shard}: expected 1 or more")
        check_outside("--out", self.out, self.root)


@dataclass(frozen=True)
class ParquetOptions(ExportOptions):
    """Which split, and what its prompts are."""

    prompt: str | None = flag(
        "what edit_prompt holds; else the descriptions if every action has one, or the labels",
        choices=list(PROMPTS),
    )
