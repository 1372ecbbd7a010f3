"""What fuzz tests share: damaged copies of files, values as nobody means them, what may come of them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from egogen.errors import UserError

QUICK = 50  # examples of an ordinary run
SECONDS = float(os.environ.get("FUZZ_CPU_SECONDS", "600"))  # of processor a reader, in a long run
SLOWEST = 5.0  # seconds of processor that one input may take
MOST_MEMORY = 1 << 20  # kB by which a process may grow over all of its examples
# Bytes that readers of many kinds stumble over.
NASTY = (
    b"\0", b"\xff" * 4, b"\xff" * 8, b"\x80\x02", b"..", b"../", b"/", b"{", b"[" * 200, b"}", b'"', b",",
    b":", b"\n", b"\r", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"null", b"true", b"[]", b"{}",
    b'""', b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"&a [*a]", b"<<: *a", b"!!python/name:os.system",
    b"\x7f\xff\xff\xff",
)  # fmt: skip
TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", ".", "..", "../x", "/x", "a/b", "\0", "<script>", "nan", "1e999", "\ud800", "x" * 300]
)
NUMBERS = (
    st.integers(-2, 3)
    | st.sampled_from([2**31, 2**63, -(2**63), 10**400, 0.5, float("nan"), float("inf"), 1e308])
    | st.floats()
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


class Edit(NamedTuple):
    """A change: at a share of the length, so many bytes give way to others."""

    place: float
    removed: int
    put: bytes


EDITS = st.lists(
    st.builds(
        Edit,
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([0, 0, 1, 1, 2, 4, 8, 100, 1 << 30]),
        st.sampled_from(NASTY) | st.binary(max_size=4),
    ),
    max_size=4,
)


def edited(content: bytes, edits: Iterable[Edit]) -> bytes:
    """A copy with the changes."""
    for place, removed, put in edits:
        at = int(place * len(content))
        content = content[:at] + put + content[at + removed :]
    return content


def misnamed(old: bytes) -> bytes:
    """A file of before torch 1.6 whose list of storages, its last pickle, names the first otherwise."""
    at = old.index(b"\0\0\0", old.rindex(b"\x80\x02]")) + 3
    return old[:at] + b"x" + old[at + 1 :]


@st.composite
def spoilt(draw: st.DrawFn, value: object) -> object:
    """A JSON value of which some parts, or all, are others, missing or more."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        kept = {key: draw(spoilt(inner)) for key, inner in value.items() if draw(st.integers(0, 19))}
        return kept | (draw(st.dictionaries(TEXTS, VALUES, max_size=1)) if draw(st.booleans()) else {})
    if isinstance(value, list):
        return [draw(spoilt(inner)) for inner in value if draw(st.integers(0, 19))]
    return value


def holds(read: Callable[[], object], folder: Path) -> None:
    """Reads: a value or a `UserError` comes of it, nothing else, soon, and no file is left or gone."""
    before, began = listed(folder), time.process_time()
    with suppress(UserError):
        read()
    assert time.process_time() - began < SLOWEST
    assert listed(folder) == before


def listed(folder: Path) -> set[Path]:
    """All that is below a folder."""
    return set(folder.rglob("*"))


def fuzz(
    check: Callable[..., None], strategy: st.SearchStrategy[object], known: Iterable[object], long: bool
) -> None:
    """Tries a check: on inputs that once made trouble, and on new ones, ever the same few or for a long time.

    Args:
        check: raises what is wrong.
        strategy: makes its one argument.
        known: such inputs.
        long: for `FUZZ_CPU_SECONDS` of processor, on others each time.
    """
    memory, began, rounds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), 0
    calm = settings(
        max_examples=2000 if long else QUICK,
        deadline=None,
        database=None,
        derandomize=not long,
        suppress_health_check=list(HealthCheck),
    )
    while rounds == 0 or (long and time.process_time() - began < SECONDS):
        tried = given(strategy)(check)  # anew: settings are given to a test once
        for each in known:
            tried = example(each)(tried)
        (seed(time.time_ns())(calm(tried)) if long else calm(tried))()
        rounds += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY


# For a test's argument `long`.
BUDGETS = [pytest.param(False, id="quick"), pytest.param(True, id="long", marks=pytest.mark.long)]
