"""Intervals and tests against closed forms; the paper's numbers against its tables."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from egogen.errors import UserError
from ldm.metrics.results.intervals import interval, paired_p_value, wilson
from ldm.metrics.results.published_results import (
    is_published_split,
    published_by_source,
    published_results,
    read_published,
)

INF = float("inf")


def test_the_interval_of_a_rate_is_that_of_its_binomial() -> None:
    """A resample of 50 items, 10 of them 1, has as many ones as 50 throws that hit one time in 5."""
    found = interval([1.0] * 10 + [0.0] * 40, 4000)
    assert found == pytest.approx([binom.ppf(end, 50, 0.2) / 50 for end in (0.025, 0.975)])
    assert all(type(end) is float for end in found or [])


def test_an_interval_is_the_same_for_the_same_values() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert interval(values, 100) == interval(iter(values), 100)
    assert interval([1.0, 3.0], 100) == [1.0, 3.0]  # a quarter of all resamples have one value twice
    for refused in ([], [1.0], [1.0, INF], [1.0, math.nan]):
        assert interval(refused, 100) is None
    assert interval(values, 0) is None


def test_wilson_by_its_formula() -> None:
    """(p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)."""
    z = 1.959963985
    for wins, n in ((13, 20), (0, 5), (1, 1)):
        p = wins / n
        middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
        expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
        assert wilson(wins, n) == pytest.approx(expected, abs=1e-9)
    assert wilson(0, 0) is None


def test_a_paired_test_counts_all_ways_of_swapping() -> None:
    a, b = [3.0, 2.0, 5.0, 4.0, 6.0, 7.0], [2.5, 2.2, 4.0, 3.0, 5.5, 5.0]
    differences = np.subtract(a, b)
    means = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=6)]
    expected = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert paired_p_value(a, b) == pytest.approx(expected)
    assert paired_p_value([1.0, 1.0], [0.0, 0.0]) == 0.5  # two of four ways
    assert paired_p_value([1.0, 1.0], [1.0, 1.0]) == 1.0


def test_a_paired_test_of_many_items_draws_ways_and_the_same_ones_again() -> None:
    """Of 2^16 ways two are as far, so that of 9,999 drawn ones few are: (1 + few) / 10,000, doubled."""
    a, b = [float(value) for value in range(1, 17)], [0.0] * 16
    found = paired_p_value(a, b)
    assert found == paired_p_value(a, b)
    assert found == pytest.approx(2e-4, abs=6e-4)
    close = paired_p_value([*a[:15], -100.0], b)
    assert close == paired_p_value([*a[:15], -100.0], b)
    assert close is not None
    assert close * 10_000 == pytest.approx(round(close * 10_000), abs=1e-6)


def test_a_paired_test_needs_two_finite_differences() -> None:
    assert paired_p_value([1.0], [2.0]) is None
    assert paired_p_value([], []) is None
    with np.errstate(all="raise"):  # inf - inf warns nobody
        assert paired_p_value([INF, 1.0], [INF, 1.0]) is None
    assert paired_p_value([INF, 1.0], [0.0, 1.0]) is None


def test_the_paper_s_numbers_are_in_our_units_by_source() -> None:
    found = published_by_source("epickitchen")
    assert [*found] == [
        "Lai et al., ECCV 2024",
        "a later paper, DynaVieW (tables 7 and 9)",
    ]
    (own, later) = found.values()
    assert own == {
        "LEGO": pytest.approx(
            {"egovlp": 0.4589, "egovlp_plus": 0.6266, "clip": 0.7863, "fid": 21.57, "psnr": 11.33,
             "lpips_squeeze": 0.4036}
        )
    }  # fmt: skip
    assert [*later] == ["ProxEdit", "SDEdit", "IP2P", "LEGO"]
    assert later["LEGO"] == pytest.approx({"blip_base": 0.2698, "blip_large": 0.2741})
    whatever = published_results("epickitchen")
    assert whatever["LEGO"] == {**own["LEGO"], **later["LEGO"]}
    assert whatever["IP2P"] == later["IP2P"]
    assert [*published_results("ego4d")] == ["ProxEdit", "SDEdit", "IP2P", "LEGO"]


def test_the_ablation_is_of_ego4d_alone_and_without_votes() -> None:
    (systems,) = published_by_source("ego4d", "ablation").values()
    assert len(systems) == 5
    assert systems["action label"] == pytest.approx({"egovlp": 0.6219, "egovlp_plus": 0.7884, "clip": 0.7875})
    assert published_results("ego4d", "ablation") == systems
    assert (
        published_by_source("epickitchen", "ablation") == published_results("epickitchen", "ablation") == {}
    )
    with pytest.raises(UserError) as told:
        published_by_source("toy")
    assert str(told.value) == "published results of 'toy': allowed are ego4d, epickitchen"


def test_the_paper_s_test_sets_are_known_by_their_size() -> None:
    assert read_published().items == {"ego4d": 9931, "epickitchen": 8893}
    assert is_published_split("ego4d", 9931)
    assert not is_published_split("ego4d", 8893)
    assert not is_published_split("toy", 9931)
