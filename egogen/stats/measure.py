"""Measures a split: how much there is of what."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from egogen.annotations import Annotations, Item
from egogen.disk import readable
from egogen.errors import UserError
from egogen.frames import image_size
from egogen.layout import DESCRIPTION_KEY, Layout, Split
from egogen.stats.words import TAG, nouns, verb
from egogen.table import text_table
from egogen.validate.frame_files import frame_names, spread
from egogen.walks import walk_files

Size = tuple[int, int]
# What `spread_of` tells.
SPREAD = "fewest / median / most"


@dataclass(frozen=True)
class SplitFigures:
    """The figures of one split.

    Args:
        layout: the data set.
        split: train or val.
        items: its actions.
        sizes: how many frames have which (width, height).
        missing: frames that are not there or cannot be opened.
        size: bytes of the split's folder.
    """

    layout: Layout
    split: Split
    items: Sequence[Item]
    sizes: Counter[Size]
    missing: int
    size: int

    @property
    def name(self) -> str:
        """`ego4d/val`."""
        return f"{self.layout.dataset}/{self.split}"

    @property
    def clips(self) -> int:
        """The number of clips."""
        return len({item.clip for item in self.items})

    @property
    def frames(self) -> int:
        """The number of frames that actions name."""
        return self.sizes.total() + self.missing

    @property
    def labels(self) -> list[str]:
        """The labels, as they are."""
        return [item.action.action for item in self.items]

    @property
    def descriptions(self) -> list[str]:
        """The descriptions that there are."""
        return [text for item in self.items if (text := item.action.text(DESCRIPTION_KEY))]

    @property
    def described(self) -> str:
        """How many actions have a description: `12 of 40`, or `all`."""
        count, total = len(self.descriptions), len(self.items)
        return "all" if count == total else f"{count:,} of {total:,}"

    @property
    def on_disk(self) -> str:
        """The folder's size in words."""
        return readable(self.size)

    @property
    def counters(self) -> dict[str, Counter[str]]:
        """How often which verbs, nouns and sizes of frames occur."""
        return {
            "verbs": Counter(found for label in self.labels if (found := verb(label))),
            "nouns": Counter(noun for label in self.labels for noun in nouns(label)),
            "image sizes": Counter({f"{width} x {height}": n for (width, height), n in self.sizes.items()}),
        }


def measure(layout: Layout, split: Split, workers: int) -> SplitFigures:
    """Measures a split; raises `UserError` if its annotations cannot be read, or none of its frames."""
    items = Annotations.read(layout.annotations(split)).items
    folder = layout.frames(split)
    names = frame_names(items)
    told = f"{layout.dataset} {split}"
    found = list(spread(lambda name: image_size(folder / name), names, len(names), workers, told))
    if not any(found):
        raise UserError(f"{folder}: none of the {len(names)} frames that the annotations name can be opened")
    total = sum(path.stat().st_size for path in walk_files(folder))
    return SplitFigures(
        layout, split, items, Counter(size for size in found if size), found.count(None), total
    )


def spread_of(texts: Iterable[str]) -> str:
    """The shortest, the median and the longest of texts, in words: `2 / 4 / 11`."""
    lengths = [len(TAG.sub("", text, count=1).split()) for text in texts]
    if not lengths:
        return "-"
    return f"{min(lengths)} / {statistics.median(lengths):g} / {max(lengths)}"


def summary(splits: Sequence[SplitFigures], top: int) -> str:
    """Lays out the figures, with so many of the most frequent verbs, nouns and sizes."""
    amounts = [
        (each.name, each.clips, len(each.items), each.frames, each.missing, each.described, each.on_disk)
        for each in splits
    ]
    lengths = [(each.name, spread_of(each.labels), spread_of(each.descriptions)) for each in splits]
    head = ("split", "clips", "actions", "frames", "missing", "described", "disk")
    parts = [
        text_table(head, amounts),
        text_table(("words, " + SPREAD, "in labels", "in descriptions"), lengths),
    ]
    for each in splits:
        rows = [
            (what, len(counts), ", ".join(f"{name} {count:,}" for name, count in counts.most_common(top)))
            for what, counts in each.counters.items()
        ]
        parts.append(text_table((each.name, "different", "most frequent"), rows))
    return "\n".join(parts)
