"""Intervals: what could have come out otherwise, had other rows, documents or concepts been drawn.

Each quantity has the interval that, of several tried, covers nearest to 95 %. How often each covers is measured by
`python -m benchmarks.coverage`; the figures in the docstrings are from benchmarks/coverage.json.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEVEL = 0.95
_CHUNK = 1 << 24  # resampled values held at once
_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_HALVINGS = 60  # of an interval of length 2 at most: down to the last bit


class Estimate(NamedTuple):
    """Values with their intervals.

    Attributes:
        value: [M].
        low, high: [M] 95 % limits.
    """

    value: Array
    low: Array
    high: Array


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def change_of_rate(lost: npt.ArrayLike, gained: npt.ArrayLike, n: int) -> Estimate:
    """Drop of a rate that was measured twice on the same rows, with Tango's score interval (Statistics in Medicine 17, 1998).

    It has width also where no row changed: at n = 100, 0 +- 0.037. Where fewer than 5 rows are expected to change, or to stay, counts are
    too coarse for any interval to cover exactly 95 %: few changes are covered more often, up to always, and an almost complete loss of 20
    rows 92 times in 100.

    Args:
        lost: [M] rows that were right before and are wrong after.
        gained: [M] rows that were wrong before and are right after.
        n: number of rows.
    """
    b, c = np.broadcast_arrays(np.asarray(lost, dtype=np.float64), np.asarray(gained, dtype=np.float64))
    value = (b - c) / n
    limits = []
    for end in (-1.0, 1.0):
        inside, outside = value, np.full_like(value, end)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            fits = _agrees(middle, b, c, n)
            inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
        limits.append(inside)
    return Estimate(value, *limits)


def _agrees(change: Array, b: Array, c: Array, n: int) -> npt.NDArray[np.bool_]:
    """Is a true change within 1.96 standard errors, taken at the likeliest rates that differ by it (Tango 1998, section 2.2)?"""
    linear = (2 * n - b + c) * change - b - c
    discriminant = linear**2 + 8 * n * c * change * (1 - change)
    gaining = (np.sqrt(np.maximum(discriminant, 0)) - linear) / (4 * n)
    variance = n * (2 * gaining + change * (1 - change))
    return np.asarray((b - c - n * change) ** 2 <= _Z**2 * variance)


def mcnemar_p(lost: npt.ArrayLike, gained: npt.ArrayLike) -> Array:
    """Two-sided p values of the exact McNemar test: are rows as easily lost as gained? 1 where no row changed.

    Args:
        lost, gained: [M] as in `change_of_rate`.

    Returns:
        [M].
    """
    from scipy.special import bdtr

    b, c = np.broadcast_arrays(np.asarray(lost, dtype=np.int64), np.asarray(gained, dtype=np.int64))
    return np.asarray(np.minimum(1.0, 2 * bdtr(np.minimum(b, c).astype(np.float64), b + c, 0.5)))


def mean_of_shares(values: npt.NDArray[np.floating]) -> Estimate:
    """Mean of values between 0 and 1, such as confidences, with Wilson's interval of a rate from as many rows as would scatter so.

    Such an effective number of rows is what surveys go by (Korn and Graubard, Survey Methodology 24, 1998). Values of 0 and 1 get the
    interval of a rate. The scatter is taken after one more row, half of it at 0 and half at 1, for what few rows may not have shown yet:
    where one confidence in twenty is low, 36 in 100 draws of 20 rows hold none that is. Where next to none is low, the interval is longer
    than it need be and covers nearly always.

    Args:
        values: [M, n].
    """
    exact = values.astype(np.float64)
    n = exact.shape[1]
    value = exact.mean(axis=1)
    centre, square = (exact.sum(axis=1) + 0.5) / (n + 1), ((exact**2).sum(axis=1) + 0.5) / (n + 1)
    rows = n * centre * (1 - centre) / (square - centre**2)
    middle = (value + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * np.sqrt(value * (1 - value) / rows + _Z**2 / (4 * rows**2))
    # at a value of 0 or 1 the limit equals it but for rounding
    return Estimate(value, np.clip(middle - half, 0.0, value), np.clip(middle + half, value, 1.0))


def mean(values: npt.NDArray[np.floating], limits: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Mean over rows or over concepts: Student's interval, made longer where Hall's, which corrects for skew, reaches further.

    Student's alone is too short on the long side of a skewed distribution, and Hall's is too short where a few extreme values on both sides
    make up the scatter. With few concepts no resampling helps: a bootstrap never leaves the range of what it has seen.

    A kind of row that is rare enough not to be among those seen is not allowed for. Where an edit breaks one row in a hundred and hardly
    touches the others, 20 rows cover the mean drop of confidence 35 times in 100, 100 rows 64 times, and 500 rows 99 times; the accuracy
    of the same rows has an interval that allows for it. Means over 3 to 14 concepts are covered 93 to 97 times in 100 up to a skewness
    of 1.75; where three concepts in ten are hit and the others hardly, 86 times with 4 concepts and 90 times with 6.

    Args:
        values: [M, n] M series, of any scale; differences are taken before. A single value says nothing of its scatter: it gets the limits.
        limits: no mean lies outside, and no interval reaches further.
    """
    n = values.shape[1]
    return total(values.astype(np.float64) / n, np.zeros(n, dtype=np.int64), limits=limits)


def ratio(numerators: npt.NDArray[np.floating], denominators: npt.NDArray[np.number]) -> Estimate:
    """Ratio of sums over documents, such as the log of a perplexity ratio: difference of the losses over the number of tokens.

    The interval is that of the `mean` of the ratio's linearised values, in which a long document counts for more.

    Args:
        numerators: [M, n].
        denominators: [n] positive.
    """
    exact = numerators.astype(np.float64)
    value = exact.sum(axis=1) / denominators.sum()
    residuals = (exact - value[:, None] * denominators) / denominators.mean()
    _, low, high = mean(residuals)
    return Estimate(value, value + low, value + high)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, two quantities measured on different rows, each with its own, perhaps lopsided, interval.

    The variance of either is recovered from the limit that faces the other (MOVER; Zou and Donner, Statistics in Medicine 27, 2008, eq. 5).
    """
    value = first.value - second.value
    low = value - np.hypot(first.value - first.low, second.high - second.value)
    high = value + np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high)


def contributions(
    drops: npt.NDArray[np.floating],
    concepts: npt.NDArray[np.integer],
    concept_of_row: npt.NDArray[np.integer],
    target: float = 1.0,
    complement: float = -1.0,
) -> tuple[Array, float]:
    """What each row adds to a mean over concepts, such as the mean selectivity; `total` adds it up.

    Every row is a target row of one concept and a complement row of all others; its contributions are taken together here, so that they
    stay paired. Two methods are compared by the difference of their contributions.

    Args:
        drops: [M, C, N] drop of each row under each method's edit of each concept.
        concepts: [C] the concepts edited.
        concept_of_row: [N].
        target, complement: weights of the two groups: 1 and -1 for selectivity, 1 and 0 for the target drop, 0 and 1 for the
            complement drop.

    Returns:
        [M, N], and the most that one row can add through the edit of one concept, when its drop is 1.

    Raises:
        ValueError: where a concept has no target rows or no complement rows.
    """
    own = concept_of_row == concepts[:, None]
    rows = own.sum(axis=1, keepdims=True)
    if (rows == 0).any() or (rows == own.shape[1]).any():
        raise ValueError("every concept needs rows of its own, and others")
    weights = np.where(own, target / rows, complement / (own.shape[1] - rows)) / len(concepts)
    return np.einsum("mcn,cn->mn", drops, weights, dtype=np.float64), float(np.abs(weights).max())


def total(
    parts: npt.NDArray[np.floating],
    strata: npt.NDArray[np.integer],
    unseen: float = 0.0,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Sum over rows, had other rows been drawn within each stratum: what other rows of these concepts would have given, not other concepts.

    The longer of Student's and Hall's intervals on either side, as in `mean`, with the degrees of freedom of Welch (Biometrika 34, 1947),
    and Hall's transformation (Journal of the Royal Statistical Society B 54, 1992, section 2) of the skewness of the sum.

    Args:
        parts: [M, N] what each row adds.
        strata: [N] concept of each row.
        unseen: what one row adds when it changes as no row has; its square is added to the variance. For accuracy, what `contributions`
            gives: where one row in a hundred changes, 45 in 100 draws of 80 rows show no change at all and would have no width.
        limits: as in `mean`; also the answer where a stratum has a single row.
    """
    from scipy.special import stdtrit

    exact = parts.astype(np.float64)
    series = len(exact)
    variance, cubes, spread = np.zeros(series), np.zeros(series), np.zeros(series)
    for stratum in np.unique(strata):
        own = exact[:, strata == stratum]
        n = own.shape[1]
        if n < 2:
            return Estimate(exact.sum(axis=1), *(np.full(series, limit) for limit in limits))
        centred = own - own.mean(axis=1, keepdims=True)
        scatter = (centred**2).sum(axis=1) * (n / (n - 1))
        variance += scatter
        cubes += (centred**3).sum(axis=1)
        spread += scatter**2 / (n - 1)
    point: Array = np.asarray(stdtrit(_quotient(variance**2, spread, np.inf), (1 + LEVEL) / 2), dtype=np.float64)
    variance += unseen**2
    error = np.sqrt(variance)
    skew = _quotient(_quotient(cubes, variance, 0.0), error, 0.0)
    value = exact.sum(axis=1)
    low = value - error * np.maximum(point, _unskewed(point, skew))
    high = value + error * np.maximum(point, -_unskewed(-point, skew))
    return Estimate(value, np.clip(low, *limits), np.clip(high, *limits))


def _unskewed(point: Array, skew: Array) -> Array:
    """Hall's cubic transformation, inverted: the studentised value whose transform is `point`."""
    slight = np.abs(skew) < 1e-6  # the formula's limit, before it loses its digits
    safe = np.where(slight, 1.0, skew)
    return np.where(slight, point, 3 / safe * (np.cbrt(1 + safe * (point - safe / 6)) - 1))


def _quotient(over: Array, under: Array, otherwise: float) -> Array:
    return np.divide(over, under, out=np.full_like(over, otherwise), where=under > 0)


def stratified_weights(concept_of_row: npt.NDArray[np.integer], resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each row counts in each resample, rows being drawn within their concept.

    `values [M, N] @ weights.T` resamples every sum over the rows of any concepts at once, and of all methods alike. It says how often
    something happens, such as a drop being reached; for the interval of a sum, or of what is nearly one, `total` covers better than its
    percentiles do.

    Of n rows n - 1 are drawn and counted n / (n - 1) times, which makes the variance of resampled means unbiased (Rao and Wu, Journal of
    the American Statistical Association 83, 1988). A row that is alone in its concept always counts once.

    Args:
        concept_of_row: [N].
        resamples: R.
        seed: decides the draws, together with the concept's number.

    Returns:
        [R, N]; the weights of a concept's rows add up to their number.
    """
    weights = np.ones((resamples, len(concept_of_row)), dtype=np.float32)
    for concept in np.unique(concept_of_row):
        places = np.flatnonzero(concept_of_row == concept)
        n = len(places)
        if n < 2:
            continue
        generator = np.random.default_rng([seed, n, int(concept) & 0xFFFFFFFF])
        step = max(1, _CHUNK // n)
        for start in range(0, resamples, step):
            count = min(step, resamples - start)
            drawn = generator.integers(0, n, size=(count, n - 1)) + np.arange(count)[:, None] * n
            times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
            weights[start : start + count, places] = times * (n / (n - 1))
    return weights
