"""The figures of a data set as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from egogen.disk import readable
from egogen.stats.measure import SPREAD, SplitFigures, spread_of
from egogen.table import text_table


def summary(splits: Sequence[SplitFigures], top: int) -> str:
    """Lays out the figures.

    Args:
        splits: what was measured.
        top: how many of the most frequent verbs, nouns and sizes are shown.
    """
    amounts = [
        (each.name, each.clips, len(each.items), each.frames, each.missing, share(each), readable(each.size))
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
            for what, counts in counters(each).items()
        ]
        parts.append(text_table((each.name, "different", "most frequent"), rows))
    return "\n".join(parts)


def counters(figures: SplitFigures) -> dict[str, Counter[str]]:
    """How often which verbs, nouns and sizes of frames occur."""
    sizes = Counter({f"{width} x {height}": count for (width, height), count in figures.sizes.items()})
    return {"verbs": figures.verbs, "nouns": figures.nouns, "image sizes": sizes}


def share(measured: SplitFigures) -> str:
    """`12 of 40`, or `all`."""
    total = len(measured.items)
    return "all" if measured.described == total else f"{measured.described:,} of {total:,}"
