"""What the exports share: the flags that choose a split, its shards, and frames as whole files."""

from __future__ import annotations

from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, Layout
from egogen.manifest import claim, file_hash
from egogen.prepare.options import ExportOptions
from egogen.validate.frame_files import probe


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
