"""The figures of a data set as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from egogen.disk import readable
from egogen.stats.measure import SPREAD, SplitFigures, spread_of
from egogen.table import text_table


def summary(splits: Sequence[SplitFigures], top: int) -> str:
    """Lays out the figures, with so many of the most frequent verbs, nouns and sizes."""
    amounts = [
        (
            each.name,
            each.clips,
            len(each.items),
            each.frames,
            each.missing,
            each.described,
            readable(each.size),
        )
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
