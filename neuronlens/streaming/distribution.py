"""A distribution of values that are not kept: exact moments and extremes, and a histogram for everything between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.histogram import FINE_BINS, Histogram
from neuronlens.streaming.moments import Array, Moments

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Distribution:
    """Of n values per neuron.

    Attributes:
        moments: of them.
        histogram: of them, with up to `FINE_BINS` bins.
    """

    moments: Moments
    histogram: Histogram

    @classmethod
    def of(cls, values: Floats) -> Distribution:
        """Of values [D, n]; n may be 0."""
        return cls(Moments.of(values), Histogram.of(values, FINE_BINS))

    def merge(self, other: Distribution) -> Distribution:
        """Of both sets of values together."""
        return Distribution(self.moments.merge(other.moments), self.histogram.merge(other.histogram))

    @property
    def n(self) -> int:
        """Number of values."""
        return self.moments.n

    def quantiles(self, q: Sequence[float], neurons: Ints | slice = slice(None)) -> Array:
        """[Q, D] estimates of NumPy's quantiles, each off by one bin width at the most (see `Histogram.quantiles`)."""
        low, high = self.moments.minimum[neurons], self.moments.maximum[neurons]
        return np.clip(self.histogram.take(neurons).quantiles(q), low, high)

    def shares(self, neurons: Ints, lower: Floats, upper: Floats) -> Array:
        """[K] estimates of the share of some neurons' values in closed intervals [K, I] (see `Histogram.shares`).

        Exact for an interval that holds all values or none, as that of a constant neuron does.
        """
        low, high = self.moments.minimum[neurons, None], self.moments.maximum[neurons, None]
        apart = (upper < low) | (lower > high)
        start, end = np.where(lower <= low, -np.inf, lower), np.where(upper >= high, np.inf, upper)
        return self.histogram.take(neurons).shares(np.where(apart, np.inf, start), np.where(apart, -np.inf, end))
