"""How many different texts there are among millions, in 8 bytes of memory each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def distinct(texts: Iterable[str]) -> int:
    """How many different ones there are, as their hashes tell: of 10^6 two are alike once in 10^7 times."""
    marks = np.sort(np.fromiter(map(hash, texts), np.int64))
    return int(np.count_nonzero(np.diff(marks))) + min(1, len(marks))
