"""How sure a mean is: bootstrap intervals, and whether two runs differ on the same items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

SEED = 0
AT_ONCE = 64  # resamples in memory,
MOST = 1 << 21  # of so many values together; the draws are the same however many
LEVEL = 0.95
PERMUTATIONS = 9999


def interval(values: Iterable[float], resamples: int) -> list[float] | None:
    """The 95 % interval of a mean by the percentile bootstrap (Efron 1979); the same for the same values.

    The order of the values must not depend on how they were measured.

    Returns:
        Its two ends; None for fewer than two values, infinite ones, or no resamples.
    """
    data = np.fromiter(values, np.float64)
    if resamples < 1 or len(data) < 2 or not np.isfinite(data).all():
        return None
    # Takes seconds to import.
    from scipy.stats import bootstrap

    ends = bootstrap(
        (data,), np.mean, n_resamples=resamples, batch=max(1, min(AT_ONCE, MOST // len(data))),
        method="percentile", confidence_level=LEVEL, rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return [float(ends.low), float(ends.high)]


def wilson(count: int, total: int) -> tuple[float, float] | None:
    """The 95 % interval of a share, `count` of `total` independent answers (Wilson 1927); None of none."""
    if total < 1:
        return None
    # Takes seconds to import.
    from scipy.stats import binomtest

    ends = binomtest(count, total).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(ends.low), float(ends.high)


def paired_p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """How likely two runs were to differ so much in mean if each item's two values could be swapped.

    A two-sided permutation test on the values of the same items in the same order, exact for few items.
    Source: Fisher 1935.

    Returns:
        The probability; None for fewer than two items or infinite differences.
    """
    with np.errstate(invalid="ignore"):
        differences: Float64[np.ndarray, " n"] = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(differences) < 2 or not np.isfinite(differences).all():
        return None
    # Takes seconds to import.
    from scipy.stats import permutation_test

    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, batch=AT_ONCE,
        rng=np.random.default_rng(SEED), vectorized=True,
    )  # fmt: skip
    return float(found.pvalue)
