"""Normality of every neuron for a concept: Kolmogorov-Smirnov (Lilliefors 1967) and Anderson-Darling, next to the moments' Jarque-Bera.

A gaussian range promises a coverage that holds for a normal neuron, so the audit says how many are not. Mean and std are estimated from the
rows under test; against the tables for known parameters next to nothing would ever be rejected. The std here has ddof 1, as both tests are
defined with, whereas a range has ddof 0.

Jarque-Bera's p is asymptotic: of normal neurons with 30 rows it puts 3.1 % below 0.05, yet 1.5 % below 0.01 and 0.65 % below 0.001, where
the Benjamini-Hochberg procedure over thousands of neurons looks; with 400 rows 4.7 %, 1.6 % and 0.53 %. The two tests here keep all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from neuronlens.streaming.blocks import blocks
from neuronlens.streaming.moments import Array

MINIMUM_ROWS = 5

# Standard deviations beyond which the error function has lost too many digits of the tail. At most a ninth of the values lie there.
_FAR = 3.0
_HALVINGS = 6  # 2^6 factors of at least 1 - erf(3 / sqrt(2))^2 = 0.0054 are far from underflow when multiplied

# Lilliefors' null: pairs of p and the modified statistic that is exceeded with that probability. Simulated with 9.6 million normal samples
# of 10 to 1000 values; below 0.01 with 9.5 million of 60 to 400.
KS_NULL = np.array(
    [
        (1, 0.2),
        (0.9999, 0.285),
        (0.999, 0.318),
        (0.99, 0.368),
        (0.95, 0.422),
        (0.9, 0.457),
        (0.8, 0.504),
        (0.7, 0.543),
        (0.6, 0.578),
        (0.5, 0.614),
        (0.4, 0.653),
        (0.3, 0.697),
        (0.2, 0.753),
        (0.1, 0.836),
        (0.05, 0.910),
        (0.02, 0.998),
        (0.01, 1.059),
        (3e-3, 1.158),
        (1e-3, 1.241),
        (1e-4, 1.396),
        (1e-5, 1.546),
    ]
)
# beyond: p falls as exp(-x^2 / (2 v)), v = 1/4 - 1/(2 pi) the largest variance of the limiting Gaussian process, the one at the mean
KS_TAIL = 1 / (2 * (1 / 4 - 1 / (2 * np.pi)))


@dataclass(frozen=True)
class Normality:
    """Two tests of one concept's rows.

    NaN throughout with fewer than `MINIMUM_ROWS` rows, and for a constant neuron, which has no distribution to test: not decided, so
    never counted as a rejection. Nowhere else.

    Attributes:
        ks, ks_p: [D] largest distance between the empirical and the fitted normal distribution function, and its p-value.
        ad, ad_p: [D] Anderson-Darling A squared, and its p-value.
    """

    ks: Array
    ks_p: Array
    ad: Array
    ad_p: Array


def normality(values: npt.NDArray[np.floating]) -> Normality:
    """Both tests of values [D, n] in one pass: one sort and one evaluation of the normal distribution function for the two."""
    return sorted_normality(np.sort(values, axis=1))


def sorted_normality(ordered: npt.NDArray[np.floating]) -> Normality:
    """Both tests of values [D, n] that are sorted along each neuron.

    Sources:
        Kolmogorov-Smirnov: Lilliefors 1967. The statistic is multiplied by sqrt(n) + c + d / sqrt(n), the form of Stephens 1974 that makes
        the null nearly independent of n; c and d are fitted to the simulated null. Calibrated to a few percent of p for n >= 10 and
        p >= 0.01, for n >= 30 down to 1e-4; smaller samples are conservative in the tail.
        Anderson-Darling: D'Agostino and Stephens 1986, table 4.9, case 3 (its branches meet to within 0.004 of p).
    """
    neurons, n = ordered.shape
    found = np.full((4, neurons), np.nan)
    if n >= MINIMUM_ROWS:
        varies = np.flatnonzero(ordered[:, 0] < ordered[:, -1])
        for cut in blocks(len(varies), n):
            ks, ad = _statistics(ordered[varies[cut]].astype(np.float64))
            found[:, varies[cut]] = ks, _ks_p(ks, n), ad, _ad_p(ad, n)
    return Normality(*found)


def kolmogorov_smirnov(values: npt.NDArray[np.floating]) -> tuple[Array, Array]:
    """[D] statistic and [D] p-value of values [D, n]; `normality` gives those of both tests for the price of one."""
    found = normality(values)
    return found.ks, found.ks_p


def anderson_darling(values: npt.NDArray[np.floating]) -> tuple[Array, Array]:
    """[D] statistic and [D] p-value of values [D, n]; `normality` gives those of both tests for the price of one."""
    found = normality(values)
    return found.ad, found.ad_p


def adjusted(p: Array) -> Array:
    """[D] Benjamini-Hochberg adjusted p-values over the neurons that have one; NaN stays NaN and does not count as a hypothesis."""
    decided = ~np.isnan(p)
    result = np.full(len(p), np.nan)
    if decided.any():
        result[decided] = scipy.stats.false_discovery_control(p[decided])
    return result


def _statistics(ordered: Array) -> tuple[Array, Array]:
    """KS distance and A squared of sorted, varying values [D, n], which are overwritten.

    With e = erf(z / sqrt(2)) of a standardised value z, the distribution function F is (1 + e) / 2, and A squared is a sum of
    log F + log(1 - F) = log(1 - e^2) - log 4 and of log(1 - F) - log F = log((1 - e) / (1 + e)). Both keep their digits up to `_FAR`.
    """
    import torch  # whose erf and log are vectorised, in float64 too

    neurons, n = ordered.shape
    ordered -= ordered.mean(axis=1, keepdims=True)
    # what rounding left in the mean: a neuron with mean 2000 and std 0.5 keeps its digits
    ordered -= ordered.mean(axis=1, keepdims=True)
    # of z / sqrt(2)
    ordered *= np.sqrt((n - 1) / 2 / np.einsum("ij,ij->i", ordered, ordered))[:, None]
    edge = _FAR / np.sqrt(2)
    far = np.flatnonzero((ordered < -edge) | (ordered > edge))
    z = ordered.ravel()[far] * np.sqrt(2)
    rank = np.arange(n)
    error = torch.erf(torch.from_numpy(ordered)).numpy()
    # F less the share of values before
    ahead = np.multiply(error, 0.5, out=ordered)
    ahead += 0.5 - rank / n
    ks = np.maximum(ahead.max(axis=1), 1 / n - ahead.min(axis=1))
    error.ravel()[far] = 0
    above = np.subtract(1, error, out=ordered)
    below = np.add(1, error, out=error)
    both = _log_product(above * below) - n * np.log(4)
    odds = torch.log_(torch.from_numpy(np.divide(above, below, out=above))).numpy()
    weight = n - 1.0 - 2 * rank
    weighted = n * both + odds @ weight
    # where the far values are, e = 0 has been counted
    log_below, log_above = scipy.special.log_ndtr(z), scipy.special.log_ndtr(-z)
    missing = n * (log_below + log_above + np.log(4)) + weight[far % n] * (log_above - log_below)
    weighted += np.bincount(far // n, missing, minlength=neurons)
    return ks, -n - weighted / n


def _log_product(factors: Array) -> Array:
    """[D] logarithm of the product of factors [D, n], which are overwritten: a logarithm takes longer than many products."""
    for _ in range(_HALVINGS):
        half = factors.shape[1] // 2
        factors[:, :half] *= factors[:, factors.shape[1] - half :]
        factors = factors[:, : factors.shape[1] - half]
    return np.asarray(np.log(factors).sum(axis=1))


def _ks_p(statistic: Array, n: int) -> Array:
    modified = statistic * (np.sqrt(n) + 0.163 + 0.485 / np.sqrt(n))
    # log p is nearly linear in the square
    square, knots, log_p = modified**2, KS_NULL[:, 1] ** 2, np.log(KS_NULL[:, 0])
    beyond = log_p[-1] - KS_TAIL * (square - knots[-1])
    return np.asarray(np.exp(np.where(square > knots[-1], beyond, np.interp(square, knots, log_p))))


def _ad_p(statistic: Array, n: int) -> Array:
    modified = statistic * (1 + 0.75 / n + 2.25 / n**2)
    # the last parabola turns upwards beyond its vertex, where p is 1e-190
    far = np.minimum(modified, 5.709 / (2 * 0.0186))
    return np.select(
        [modified < 0.2, modified < 0.34, modified < 0.6],
        [
            -np.expm1(-13.436 + 101.14 * modified - 223.73 * modified**2),
            -np.expm1(-8.318 + 42.796 * modified - 59.938 * modified**2),
            np.exp(0.9177 - 4.279 * modified - 1.38 * modified**2),
        ],
        np.exp(1.2937 - 5.709 * far + 0.0186 * far**2),
    )
