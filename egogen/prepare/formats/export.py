"""What the exports share: the flags that choose a split, its shards, and frames as whole files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egogen.annotations import Annotations, Item
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, FOLDERS, Layout, Split
from egogen.manifest import claim, file_hash
from egogen.validate.frame_files import probe


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


class ExportSplit:
    """A split that is exported, in shards of equal size, in the order of the annotations.

    Args:
        options: which one.

    Raises:
        UserError: no such annotations, or no action in them.
    """

    def __init__(self, options: ExportOptions) -> None:
        self.options, self.layout = options, Layout(options.root, options.dataset)
        self.name = f"{options.dataset}-{options.split}"
        self.annotations = Annotations.read(options.annotations or self.layout.annotations(options.split))
        items, size = self.annotations.items, options.samples_per_shard
        self.shards = [items[first : first + size] for first in range(0, len(items), size)]
        if not items:
            raise UserError(f"{self.annotations.source}: holds no action; there is nothing to export")

    def frame(self, name: str) -> bytes:
        """A frame's file; raises `UserError` if it is missing or broken."""
        path = self.layout.frames(self.options.split) / name
        if fault := probe(path).fault:
            raise UserError(f"{path}: {fault}; python -m egogen.validate names all such frames")
        return path.read_bytes()

    def claim(self, **settings: object) -> None:
        """Takes the folder for this export; a second run with the same settings goes on."""
        settings["annotations"] = file_hash(self.annotations.source)
        settings["samples_per_shard"] = self.options.samples_per_shard
        claim(self.options.out, settings, f"{self.name}.manifest.json")


def describe(item: Item) -> dict[str, str | None]:
    """What both exports say about an action."""
    return {
        "clip_id": item.clip,
        "action_id": item.id,
        "action": item.action.action,
        "description": item.action.text(DESCRIPTION_KEY),
    }
