"""Moments to order four in one mergeable pass, float64 (Chan, Golub and LeVeque 1983; Pebay 2008, equations 2.1 and 3.1).

Central sums are merged, never raw power sums: on a neuron with mean 2000 and std 0.5 those lose every digit. Data sorted by concept, and
batches that drift, give NumPy's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.blocks import blocks

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of n values per neuron.

    Attributes:
        n: number of values.
        mean: [D].
        m2, m3, m4: [D] sums of powers of the deviations from the mean.
        mean_abs: [D] mean of the absolute value.
        minimum, maximum: [D].
    """

    n: int
    mean: Array
    m2: Array
    m3: Array
    m4: Array
    mean_abs: Array
    minimum: Array
    maximum: Array

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Moments:
        """Of values [D, n]; n may be 0."""
        neurons, n = values.shape
        if n == 0:
            zero = np.zeros(neurons)
            return cls(0, zero, zero, zero, zero, zero, np.full(neurons, np.inf), np.full(neurons, -np.inf))
        parts = [cls._of(values[cut].astype(np.float64)) for cut in blocks(neurons, n)]
        return cls(n, *(np.concatenate(column) for column in zip(*parts, strict=True)))

    @staticmethod
    def _of(exact: Array) -> tuple[Array, ...]:
        """Everything but n."""
        mean = exact.mean(axis=1)
        deviation = exact - mean[:, None]
        # what rounding left in the mean, so that m2 of a large-mean neuron keeps its digits
        residue = deviation.mean(axis=1)
        deviation -= residue[:, None]
        square = deviation * deviation
        m2 = square.sum(axis=1)
        deviation *= square
        m3 = deviation.sum(axis=1)
        square *= square
        m4 = square.sum(axis=1)
        mean_abs = np.abs(exact, out=square).mean(axis=1)
        return mean + residue, m2, m3, m4, mean_abs, exact.min(axis=1), exact.max(axis=1)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        a, b = self.n, other.n
        n = a + b
        delta = other.mean - self.mean
        step = delta / n
        m2 = self.m2 + other.m2 + delta * step * a * b
        m3 = self.m3 + other.m3 + delta * step * step * a * b * (a - b) + 3 * step * (a * other.m2 - b * self.m2)
        m4 = (
            self.m4
            + other.m4
            + delta * step**3 * a * b * (a * a - a * b + b * b)
            + 6 * step**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * step * (a * other.m3 - b * self.m3)
        )
        return Moments(
            n,
            self.mean + step * b,
            m2,
            m3,
            m4,
            self.mean_abs + (other.mean_abs - self.mean_abs) * (b / n),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def std(self) -> Array:
        """[D] standard deviation, ddof 0 as in the reference."""
        return np.sqrt(self.m2 / max(self.n, 1))

    @property
    def skewness(self) -> Array:
        """[D] biased sample skewness, 0 for a constant neuron."""
        return _ratio(self.m3 / max(self.n, 1), self.std**3)

    @property
    def kurtosis(self) -> Array:
        """[D] biased excess kurtosis, 0 for a constant neuron."""
        return np.where(self.m2 > 0, _ratio(self.m4 / max(self.n, 1), self.std**4) - 3, 0.0)

    @property
    def jarque_bera(self) -> Array:
        """[D] p-value of the Jarque-Bera test of normality, from the moments; asymptotic chi-squared with 2 degrees of freedom."""
        # the survival function of that chi-squared is exp(-x / 2)
        return np.exp(-self.n / 12 * (self.skewness**2 + self.kurtosis**2 / 4))


def merge_all(parts: Sequence[Moments]) -> Moments:
    """Merge in the order given, so that the result has the same bits whoever computed the parts."""
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
