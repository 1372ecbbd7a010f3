"""Seeds are keyed by item and stay what they are."""

import re
from argparse import ArgumentTypeError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.seeds import MOST_SEED, item_seed, read_seed
from tests.workbench import ROOT


def test_seeds_are_pinned() -> None:
    # A change here changes every sample that was ever drawn. Witness: sha256("0\0clip\0action") by sha256sum.
    assert item_seed(0, "clip", "action") == 0x5542D6014725FBDF >> 1


@given(seed=st.integers(), item=st.lists(st.text(), max_size=3))
def test_range_and_repetition(seed: int, item: list[str]) -> None:
    drawn = item_seed(seed, *item)
    assert 0 <= drawn < 2**63
    assert drawn == item_seed(seed, *item)


def test_neighbours_differ() -> None:
    items = [
        (seed, clip, action) for seed in range(5) for clip in ("a", "b", "ab") for action in ("", "b", "c")
    ]
    seeds = [item_seed(*item) for item in items]
    assert len(set(seeds)) == len(items)
    # Draws of neighbouring items are not alike: 45 means of 1000 normal values, spread 1 / sqrt(1000).
    draws = np.array([np.random.default_rng(seed).normal(size=1000) for seed in seeds])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 6 / np.sqrt(1000)


def test_any_text_of_a_file_is_an_id() -> None:
    assert item_seed(0, "\ud800") != item_seed(0, "\ud801")  # JSON may hold half a surrogate pair


def test_seeds_of_people_have_one_range() -> None:
    assert [read_seed(text) for text in ("0", "42", "4294967295")] == [0, 42, MOST_SEED]
    np.random.RandomState(MOST_SEED)  # who takes the least
    for text in ("-1", "4294967296", "1.5", "x", "", "9" * 5000):
        with pytest.raises(ArgumentTypeError, match=r"allowed: a whole number from 0 to 4294967295$"):
            read_seed(text)


def test_every_command_s_seed_is_read_so() -> None:
    files = [path for name in ("egogen", "llava", "ldm") for path in ROOT.glob(f"{name}/**/*.py")]
    flags = [
        found
        for path in files
        for found in re.findall(r"^    seed: int.* = flag\(.*", path.read_text(), re.M)
    ]
    assert len(flags) >= 8
    assert all("type=read_seed" in found for found in flags), flags
