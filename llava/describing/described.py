"""The finished descriptions of one shard: what a restart reads, and the published form made of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Bool, Int64

from egogen.annotations import Item
from egogen.blocks import in_blocks
from egogen.errors import UserError
from egogen.journal import Journal, Key, Row
from egogen.json_stream import write_members

PUBLISHED = ("original action", "action", "description")
COLUMNS = 3  # of a description in memory: hashes of its key and of what it is for, its place in the file


class Descriptions(Journal):
    """A journal of descriptions, of which 24 bytes each are in memory; the texts stay on disk."""

    def __init__(self, path: Path) -> None:
        self.read = array("q")
        self.added: dict[int, tuple[int, int]] = {}
        super().__init__(path, ("clip", "id"), is_whole=is_description, anew="its action is described anew")
        found = np.frombuffer(self.read, np.int64).reshape(-1, COLUMNS)[::-1]  # the last of a key counts
        self.keys, first = np.unique(found[:, 0], return_index=True)
        self.facts = found[first, 1:]
        self.read = array("q")  # in these two now

    def keep(self, key: Key, row: Row, place: int) -> None:
        """Notes where a row lies."""
        facts = hash((row["original action"], row.get("feature"))), place
        if hasattr(self, "keys"):
            self.added[hash(key)] = facts
        else:
            self.read.extend((hash(key), *facts))

    def find(self, item: Item) -> tuple[int, int] | None:
        """Hash and place of an action's description."""
        key = hash((item.clip, item.id))
        if key in self.added:
            return self.added[key]
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        return int(self.facts[place, 0]), int(self.facts[place, 1])

    def has(self, item: Item, feature: str) -> bool:
        """Whether an action's text is written, for the label and the text feature that it has now."""
        found = self.find(item)
        return found is not None and found[0] == hash((item.action.action, feature))

    def has_each(self, items: Sequence[Item], features: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """The same of many at once."""
        facts = np.fromiter(
            (hash((item.action.action, name)) for item, name in zip(items, features, strict=True)), np.int64
        )
        told, _ = self.find_each(items)
        return told == facts

    def find_each(self, items: Sequence[Item]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Hashes and places of actions' descriptions; of one that has none both are -1, which no hash is."""
        keys = np.fromiter((hash((item.clip, item.id)) for item in items), np.int64, len(items))
        found = np.full((len(keys), COLUMNS - 1), -1)
        if len(self.keys):
            rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            known = self.keys[rows] == keys
            found[known] = self.facts[rows[known]]
        for row, key in enumerate(keys.tolist() if self.added else ()):
            if key in self.added:
                found[row] = self.added[key]
        return found[:, 0], found[:, 1]

    def publish(self, path: Path, items: Sequence[Item]) -> None:
        """Writes the published form, in the order of the annotation file: clip -> action id -> texts.

        Raises:
            UserError: an action has no description.
        """
        parts = (
            f"\n    {quoted(clip)}: {{\n" + ",\n".join(entry(item.id, row) for item, row in rows) + "\n    }"
            for clip, rows in groupby(self.published(items), key=lambda pair: pair[0].clip)
        )
        write_members(path, parts)

    def published(self, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, str]]]:
        """The published texts of actions, read from disk one after the other."""
        if not items:
            return
        with self.path.open("rb") as file:
            for block in in_blocks(items):
                for item, place in zip(block, self.find_each(block)[1].tolist(), strict=True):
                    yield item, self.texts(file, item, place)

    def texts(self, file: IO[bytes], item: Item, place: int) -> dict[str, str]:
        """The published texts of an action, from the journal's row at a place."""
        row: Row = {}
        if place >= 0:
            file.seek(place)
            row = self.parse(file.readline()) or {}
        if (row.get("clip"), row.get("id")) != (item.clip, item.id):
            raise UserError(f"{self.path}: has no text of {item.clip}/{item.id}; start again")
        return {name: row[name] for name in PUBLISHED}


def entry(action: str, row: Mapping[str, str]) -> str:
    """An action's part of the published form, as `json.dumps` indents it, in a tenth of the time."""
    texts = ",\n".join(f"            {quoted(name)}: {quoted(row[name])}" for name in PUBLISHED)
    return f"        {quoted(action)}: {{\n{texts}\n        }}"


def is_description(row: Row) -> bool:
    """Whether a row holds the texts that are published, and the name of its feature if it has any."""
    has_texts = all(isinstance(row.get(name), str) for name in PUBLISHED)
    return has_texts and isinstance(row.get("feature"), str | None)
