"""Descriptions that are done, a JSON line each, appended and flushed batch by batch: what a restart reads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import Item
from egogen.disk import writing
from egogen.errors import UserError

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A description: the action, its words in the question, the text, the name of its text feature."""

    item: Item
    words: str
    text: str
    feature: str


class Journal:
    """The finished descriptions of one shard.

    Args:
        path: the `.jsonl` file; a last line that a killed run left unfinished is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[tuple[str, str], dict[str, str]] = {}
        if path.exists():
            self.read()

    def read(self) -> None:
        """Reads whole lines; cuts off an unfinished one."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            log.warning("%s: dropped an unfinished last line", self.path)
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self.entries[entry.pop("clip"), entry.pop("id")] = entry
            except (json.JSONDecodeError, KeyError, AttributeError):
                raise UserError(
                    f"{self.path}: line {number} is damaged; delete it, and its action is described anew"
                ) from None

    def has(self, item: Item, feature: str) -> bool:
        """Whether an action's text is written, for the label and the text feature that it has now."""
        entry = self.entries.get((item.clip, item.id))
        return (
            entry is not None
            and entry["original action"] == item.action.action
            and entry.get("feature") == feature
        )

    def add(self, made: Sequence[Line]) -> None:
        """Appends descriptions and waits until they are on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            for item, words, text, feature in made:
                entry = {
                    "original action": item.action.action,
                    "action": words,
                    "description": text,
                    "feature": feature,
                }
                self.entries[item.clip, item.id] = entry
                file.write(json.dumps({"clip": item.clip, "id": item.id, **entry}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def published(self, items: Sequence[Item]) -> dict[str, dict[str, dict[str, str]]]:
        """The published form, in the order of the annotation file: clip -> action id -> texts."""
        nested: dict[str, dict[str, dict[str, str]]] = {}
        for item in items:
            entry = self.entries[item.clip, item.id]
            nested.setdefault(item.clip, {})[item.id] = {
                name: entry[name] for name in ("original action", "action", "description")
            }
        return nested
