"""Texts of actions that stay in their JSON files, clip -> action id -> entry: 40 bytes each in memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from egogen.annotations import ClipFile, Item, check_object
from egogen.files import no_garbage
from egogen.stored_items import choose

NO_LABEL = hash(None)
AT_ONCE = 1 << 14  # texts in memory, at most


class Entry(NamedTuple):
    """What a file has of an action."""

    clip: str
    id: str
    value: object


class GivenText(NamedTuple):
    """A text, and the label that it was written for, where the file says."""

    text: str
    label: str | None


class Unlike(NamedTuple):
    """How texts differ from those that some actions need.

    `places`: of the actions' texts, -1 where there is none; `missing`: those actions. `strange`: the place of
    the first text that is of none of the actions, or of another label; `row`: of which action it is then.
    """

    places: Int64[np.ndarray, " n"]
    missing: Int64[np.ndarray, " m"]
    strange: int | None
    row: int | None


class KeptTexts:
    """Texts of actions by their places, which are counted through all files.

    Args:
        read: makes the text of an entry of a file; raises `UserError` if it has none.
        content: what is in a clip, for messages.
        large: bytes of a file above which its entries stay in it; by default as annotations.
    """

    def __init__(
        self, read: Callable[[Entry, Path], GivenText], content: str, large: int | None = None
    ) -> None:
        self.read, self.content, self.large = read, content, large
        self.files: list[ClipFile[Entry]] = []
        self.ends: list[int] = []  # of each file, the place behind its last text
        self.keys, self.labels = array("q"), array("q")  # hashes of clip and action, and of the label

    def add(self, path: Path) -> None:
        """Adds the texts of a file.

        Raises:
            UserError: it cannot be read, is of another form, or an entry has no text.
        """
        file = ClipFile(path, Entry, self.large)
        self.files.append(file)
        with no_garbage():
            for clip, actions in file:
                found = check_object(actions, f"{path}: clip {clip!r}", self.content)
                entries = [Entry(clip, *each) for each in found.items()]
                file.keep(clip, entries)
                for entry in entries:
                    self.keys.append(hash((clip, entry.id)))
                    self.labels.append(hash(self.read(entry, path).label))
        self.ends.append(len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def ordered(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The hashes of actions in order, and their places."""
        keys = np.array(self.keys, np.int64)
        places = np.argsort(keys)
        return keys[places], places

    def find(self, items: Iterable[Item]) -> Int64[np.ndarray, " n"]:
        """The places of actions' texts; -1 of one that has none."""
        keys, places = self.ordered
        asked = np.fromiter((hash((item.clip, item.id)) for item in items), np.int64)
        if not len(keys):
            return np.full(len(asked), -1)
        rows = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        return np.where(keys[rows] == asked, places[rows], -1)

    def compare(self, items: Sequence[Item]) -> Unlike:
        """Compares them with the actions that need texts."""
        labels = array("q")

        def look() -> Iterator[Item]:
            for item in items:
                labels.append(hash(item.action.action))
                yield item

        places = self.find(look())
        known = np.flatnonzero(places >= 0)
        owners, given = np.full(len(self), -1), np.array(self.labels, np.int64)
        owners[places[known]] = known
        other = np.zeros(len(self), bool)
        other[places[known]] = given[places[known]] != np.array(labels, np.int64)[known]
        strange = np.flatnonzero((owners < 0) | (other & (given != NO_LABEL)))
        unlike = Unlike(places, np.flatnonzero(places < 0), None, None)
        if not len(strange):
            return unlike
        row = int(owners[strange[0]])
        return unlike._replace(strange=int(strange[0]), row=None if row < 0 else row)

    def entry(self, place: int) -> tuple[Path, Entry]:
        """What its file has at a place."""
        return next(self.entries(np.array([place])))

    def entries(self, places: Int64[np.ndarray, " n"]) -> Iterator[tuple[Path, Entry]]:
        """The same of many, read file by file."""
        for first in range(0, len(places), AT_ONCE):
            block = places[first : first + AT_ONCE]
            numbers = np.searchsorted(self.ends, block, side="right")
            found: dict[int, tuple[Path, Entry]] = {}
            for number in np.unique(numbers).tolist():
                file, mine = self.files[number], block[numbers == number]
                with nullcontext() if file.store is None else file.store.opened():
                    chosen = choose(file.items, mine - (self.ends[number - 1] if number else 0))
                    found.update(zip(mine.tolist(), ((file.path, each) for each in chosen), strict=True))
            yield from map(found.__getitem__, block.tolist())

    def texts(self, places: Int64[np.ndarray, " n"]) -> Iterator[str]:
        """The texts at some places."""
        return (self.read(entry, path).text for path, entry in self.entries(places))
