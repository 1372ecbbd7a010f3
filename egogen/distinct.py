"""Millions of texts by their hashes, 8 bytes of memory each: how many differ, which are among others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int64


def distinct(marks: Int64[np.ndarray, " n"]) -> int:
    """How many different texts there are, as their hashes tell: of 10^6 two are alike once in 10^7 times."""
    ordered = np.sort(marks)
    return int(np.count_nonzero(np.diff(ordered))) + min(1, len(ordered))


def among(marks: Int64[np.ndarray, " n"], ordered: Int64[np.ndarray, " m"]) -> Bool[np.ndarray, " n"]:
    """Which hashes are among others, which are in order."""
    if not len(ordered):
        return np.zeros(len(marks), bool)
    places = np.searchsorted(ordered, marks)
    found: np.ndarray = ordered[np.minimum(places, len(ordered) - 1)] == marks
    return found


def once(texts: Iterable[str]) -> Iterator[str]:
    """The texts, each where it comes first."""
    seen: set[int] = set()
    for text in texts:
        if (mark := hash(text)) not in seen:
            seen.add(mark)
            yield text
