"""What is to be known of all items of a split, gathered while its annotations are read."""

from __future__ import annotations

from array import array

import numpy as np
from jaxtyping import Int64

from egogen.annotations import Item
from egogen.distinct import distinct
from egogen.layout import target_stem
from egogen.text_names import frame_mark


class SplitFacts:
    """Is shown each item, of which 16 bytes are kept.

    Args:
        text_key: where each has its text.
        named: whether text features will be named.
    """

    def __init__(self, text_key: str, named: bool) -> None:
        self.text_key, self.named = text_key, named
        self.lacking: Item | None = None  # the first without its text
        self.inputs, self.targets = array("q"), array("q")

    def __call__(self, item: Item) -> None:
        """Takes note of an item."""
        if self.lacking is None and item.action.text(self.text_key) is None:
            self.lacking = item
        if self.named:
            self.inputs.append(frame_mark(item.action.image_0))
        self.targets.append(hash(target_stem(item.action.image_1)))

    @property
    def input_marks(self) -> Int64[np.ndarray, " n"]:
        """Of the input frames, for `egogen.text_names.TextNames`."""
        return np.frombuffer(self.inputs, np.int64)

    @property
    def are_apart(self) -> bool:
        """Whether no two target frames have one name, or names that differ in their endings alone."""
        return distinct(np.frombuffer(self.targets, np.int64)) == len(self.targets)
