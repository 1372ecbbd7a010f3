"""Descriptions that are done, appended batch by batch: what a restart reads and what is published of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from egogen.annotations import Item
from egogen.journal import Journal, Row

PUBLISHED = ("original action", "action", "description")


class Descriptions(Journal):
    """The finished descriptions of one shard.

    Args:
        path: the `.jsonl` file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, ("clip", "id"), is_whole=is_description, anew="its action is described anew")

    def has(self, item: Item, feature: str) -> bool:
        """Whether an action's text is written, for the label and the text feature that it has now."""
        row = self.rows.get((item.clip, item.id), {})
        return row.get("original action") == item.action.action and row.get("feature") == feature

    def published(self, items: Sequence[Item]) -> dict[str, dict[str, dict[str, str]]]:
        """The published form, in the order of the annotation file: clip -> action id -> texts."""
        nested: dict[str, dict[str, dict[str, str]]] = {}
        for item in items:
            row = self.rows[item.clip, item.id]
            nested.setdefault(item.clip, {})[item.id] = {name: row[name] for name in PUBLISHED}
        return nested


def is_description(row: Row) -> bool:
    """Whether a row holds the texts that are published."""
    return all(isinstance(row.get(name), str) for name in PUBLISHED)
