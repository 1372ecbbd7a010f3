"""What the text feature of an action is called: as its frame, or by its own where actions share a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

import numpy as np
from jaxtyping import Int64

from egogen.annotations import Action, Item
from egogen.layout import normal, without_suffix
from egogen.stored_items import choose


class TextNames:
    """Names, as of images, of the text features of a whole split.

    The first action of a frame has the frame's name, as published; further actions of the same frame add
    their clip and id to it: `a/x.jpg` -> `a/x.<clip>.<id>.jpg` (F-S1-10). Only these are kept.

    Args:
        items: all actions of the annotation file, in its order.
        frame: which of an action's frames is described.
        marks: of those frames (`frame_mark`), where they are known already.
    """

    def __init__(
        self,
        items: Sequence[Item],
        frame: Callable[[Action], str],
        marks: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        self.frame = frame
        self.own: dict[tuple[str, str], str] = {}
        if marks is None:
            marks = np.fromiter((frame_mark(frame(item.action)) for item in items), np.int64)
        alike = repeated(marks)
        while alike.any():  # the others share no frame
            made = self.note(choose(items, np.flatnonzero(alike)))
            met = np.isin(marks, made) & ~alike  # frames that are called as one of ours
            if not met.any():
                break
            alike |= met

    def note(self, items: Sequence[Item]) -> list[int]:
        """Names actions, among which are all that share a frame; returns the marks of the names."""
        self.own = {}
        taken: set[str] = set()
        made = []
        for item in items:
            stem = without_suffix(self.frame(item.action))
            if stem in taken:
                path = PurePosixPath(self.frame(item.action))
                own = ".".join(quote(part, safe="") for part in (item.clip, item.id))
                path = path.with_name(f"{path.stem}.{own}{path.suffix}")
                self.own[item.clip, item.id] = str(path)
                stem = without_suffix(str(path))
                made.append(frame_mark(str(path)))
            taken.add(stem)
        return made

    def of(self, item: Item) -> str:
        """The name of an action's text feature."""
        own = self.own.get((item.clip, item.id))
        if own is not None:
            return own
        return normal(self.frame(item.action))


def frame_mark(frame: str) -> int:
    """What tells a frame's feature from others, in this process."""
    return hash(without_suffix(frame))


def repeated(marks: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Which marks occur more than once."""
    ordered = np.sort(marks)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.isin(marks, twice)
