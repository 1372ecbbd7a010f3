"""What the exports share: the flags that choose a split, its shards, and frames as whole files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import DESCRIPTION_KEY, Annotations, Item
from egogen.cli import parser
from egogen.errors import UserError
from egogen.layout import FOLDERS, Layout, Split
from egogen.manifest import claim, file_hash
from egogen.validate.frame_files import probe


def arguments(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of all exports."""
    made = parser(f"python -m egogen.prepare {command}", description)
    made.add_argument("root", type=Path, metavar="ROOT", help="the folder that holds EgoGen/")
    made.add_argument("--dataset", choices=list(FOLDERS), required=True)
    made.add_argument("--split", choices=["train", "val"], required=True)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="may hold several splits")
    made.add_argument("--annotations", type=Path, metavar="FILE", help="instead of the one in EgoGen/")
    made.add_argument("--samples-per-shard", type=int, default=1000)
    return made


class ExportSplit(NamedTuple):
    """A split that is exported, in shards of equal size."""

    layout: Layout
    split: Split
    annotations: Annotations
    per_shard: int

    @property
    def name(self) -> str:
        """`ego4d-val`."""
        return f"{self.layout.dataset}-{self.split}"

    @property
    def shards(self) -> list[list[Item]]:
        """The actions of each shard, in the order of the annotations."""
        items, size = self.annotations.items, self.per_shard
        return [items[number * size : (number + 1) * size] for number in range(math.ceil(len(items) / size))]

    def frame(self, name: str) -> bytes:
        """A frame's file.

        Raises:
            UserError: it is missing or broken.
        """
        path = self.layout.frames(self.split) / name
        if fault := probe(path).fault:
            raise UserError(f"{path}: {fault}; python -m egogen.validate names all such frames")
        return path.read_bytes()

    def claim(self, out: Path, **settings: object) -> None:
        """Takes a folder for this export; a second run with the same settings goes on."""
        settings |= {"annotations": file_hash(self.annotations.source), "samples_per_shard": self.per_shard}
        claim(out, settings, f"{self.name}.manifest.json")


def read_source(layout: Layout, split: Split, annotations: Path | None, per_shard: int) -> ExportSplit:
    """Reads a split; `annotations` stands for the file in EgoGen/.

    Raises:
        UserError: a wrong flag, no such annotations, or no action in them.
    """
    if per_shard < 1:
        raise UserError(f"--samples-per-shard {per_shard}: expected 1 or more")
    read = Annotations.read(annotations or layout.annotations(split))
    if not len(read):
        raise UserError(f"{read.source}: holds no action; there is nothing to export")
    return ExportSplit(layout, split, read, per_shard)


def describe(item: Item) -> dict[str, str | None]:
    """What both exports say about an action."""
    return {
        "clip_id": item.clip,
        "action_id": item.id,
        "action": item.action.action,
        "description": item.action.text(DESCRIPTION_KEY),
    }
