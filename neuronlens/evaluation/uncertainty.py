"""Intervals: what could have come out otherwise, had other rows or other concepts been drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEVEL = 0.95
_CHUNK = 1 << 24  # resampled values held at once


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_means(values: npt.NDArray[np.floating], resamples: int, seed: int, stream: int = 0) -> Array:
    """Means of rows drawn with replacement.

    The same rows are drawn for every series, so differences between series stay paired.

    Args:
        values: [M, n] M series over the same n rows.
        resamples: R.
        seed: decides the draws, together with n and `stream`.
        stream: another number for rows that are drawn independently; without it two groups of equal size would draw alike.

    Returns:
        [M, R].
    """
    series, n = values.shape
    generator = np.random.default_rng([seed, n, stream])
    exact = values.astype(np.float64)
    means = np.empty((series, resamples))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(0, n, size=(count, n))
        # how often each row was drawn turns all means of a chunk into one matrix product
        places = drawn + np.arange(count)[:, None] * n
        weights = np.bincount(places.ravel(), minlength=count * n).reshape(count, n)
        means[:, start : start + count] = exact @ weights.T / n
    return means


def interval(means: Array) -> tuple[Array, Array]:
    """95 % percentile interval of resampled means [..., R]: two arrays [...]."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high
