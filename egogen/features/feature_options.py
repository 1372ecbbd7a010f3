"""The flags of `python -m egogen.features`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import shorten
from egogen.features.store_names import IMAGE_TOKENS, ROW_TYPES, SHARD_ITEMS, STORES, SUFFIXES, RowType, Store
from egogen.layout import FOLDERS, data_root

MOST = 10**15


def positive(text: str) -> int:
    """Reads a number of at least 1; beyond `MOST` there is nothing to count."""
    if not text.isdecimal() or len(text) > len(str(MOST)) or not 1 <= int(text) <= MOST:
        raise ArgumentTypeError(f"found {shorten(text)}, expected at least 1 and at most {MOST}")
    return int(text)


@dataclass(frozen=True)
class Conversion:
    """What is to be made: the flags of `convert`."""

    source: Path = flag("root of the features, or any folder below it", positional=True, type=Path)
    target: Path = flag("root of the new store", positional=True, type=Path)
    store: Store = flag(
        "which store to make", spelled=("--to",), choices=STORES, default="compact", dest="store"
    )
    projector: Path | None = flag(
        f"file ({SUFFIXES}) or checkpoint folder with stage 1's projector, to leave .npy", type=Path
    )
    clip: Path | None = flag("for --to online: folder of the CLIP that stage 1 saw with", type=Path)
    text_type: RowType = flag("of text rows in shards", choices=ROW_TYPES, default="float16")
    features_per_shard: int = flag("held in memory at a time", type=positive, default=SHARD_ITEMS)
    # float16 rounds to 0.0003, bfloat16 to 0.0015
    tolerance: float = flag(
        "relative error of image features above which the projector is refused", type=float, default=2e-3
    )
    workers: int = flag("threads", type=cli.workers, default=4)


@dataclass(frozen=True)
class FeatureShape:
    """What features are like; the defaults are the published model's."""

    width: int = flag("of the language model", type=positive, default=5120)
    patch_width: int = flag("of CLIP", type=positive, default=1024)
    patches: int = flag("of an image", type=positive, default=IMAGE_TOKENS)
    tokens: int = flag("of a text, on average", type=positive, default=100)


@dataclass(frozen=True)
class CheckOptions:
    """The flags of `check`."""

    store: Path = flag("root of the features, or any folder below it", positional=True, type=Path)
    other: Path | None = flag("a store that stands for the first", positional=True, type=Path, nargs="?")
    items: int | None = flag("at most so many features of a folder, evenly spread", type=positive)


@dataclass(frozen=True)
class EstimateOptions(FeatureShape):
    """The flags of `estimate`."""

    items: int | None = flag("number of actions, each with a frame of its own", type=positive, either=True)
    annotations: list[Path] | None = flag("annotation files to count in", type=Path, nargs="+", either=True)
    dataset: str | None = flag("count in both splits below --data-root", choices=list(FOLDERS), either=True)
    data_root: Path = flag("the folder that holds EgoGen/", type=Path, default=data_root)
