"""A histogram in one mergeable pass, exact whatever the batches and the order in which they are merged.

The bins of a neuron are [i 2^k, (i + 1) 2^k) for whole i, so two bins of one histogram are one bin of the next coarser, and no edge has to
be known before the values are. k is canonical: the smallest that gives no finer bins than float32 has numbers at the largest |value|, and
no more than so many of them from the smallest value to the largest (`BINS`, unless told otherwise). It can only grow as values are added,
so merging coarsens and never has to split a bin, and histograms of the same values are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.blocks import blocks
from neuronlens.streaming.moments import Array

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# values span 33 to 64, as 65 of half the width would have been too many; fewer only where float32 has no finer bins. With more, concepts of
# a hundred rows would look less alike than they are: rows that share no bin do not overlap
BINS = 64

# of values that are not kept: four times as fine, so that what is estimated from them is off by four times less
FINE_BINS = 256

# float32 has 24 binary digits, and none finer than 2^-149
_DIGITS, _FINEST = 24, -149


@dataclass(frozen=True)
class Histogram:
    """Of n values per neuron.

    Attributes:
        n: number of values.
        k: [D] bins are 2^k wide.
        first: [D] number i of the first bin, which holds the smallest value. At most 2^24 in size, as k is bounded by float32's digits.
        counts: [B, D] values in bin first, first + 1, and so on.
    """

    n: int
    k: Ints
    first: Ints
    counts: Ints

    @classmethod
    def of(cls, values: Floats, bins: int = BINS) -> Histogram:
        """Of finite values [D, n], with at most so many bins; n may be 0."""
        neurons, n = values.shape
        if n == 0:
            nowhere = np.zeros(neurons, dtype=np.int64)
            return cls(0, nowhere + _FINEST, nowhere, np.zeros((bins, neurons), dtype=np.int64))
        k, first, counts = zip(*(_binned(values[cut], bins) for cut in blocks(neurons, n)), strict=True)
        return cls(n, np.concatenate(k), np.concatenate(first), np.concatenate(counts).T)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values together."""
        return aligned([self, other])[0]

    def coarse(self, bins: int = BINS) -> Histogram:
        """The histogram of the same values that has at most so many bins, to the bit."""
        excess = _excess(self.first, self.last, bins) if self.n else np.zeros_like(self.first)
        k, first = self.k + excess, self.first >> excess
        return Histogram(self.n, k, first, self.on(k, first, bins))

    def take(self, neurons: Ints | slice) -> Histogram:
        """Of some neurons."""
        return Histogram(self.n, self.k[neurons], self.first[neurons], self.counts[:, neurons])

    @property
    def bins(self) -> int:
        """B, the most bins that a neuron can have."""
        return len(self.counts)

    @property
    def width(self) -> Array:
        """[D] of a bin."""
        return _power(self.k)

    @property
    def low(self) -> Array:
        """[D] lower edge of the first bin."""
        return self.first * self.width

    @property
    def high(self) -> Array:
        """[D] upper edge of the last of all B bins, of which those beyond the largest value are empty."""
        return (self.first + self.bins) * self.width

    @property
    def last(self) -> Ints:
        """[D] number of the bin that holds the largest value."""
        last: Ints = self.first + self.bins - 1 - np.argmax(self.counts[::-1] > 0, axis=0)
        return last

    def on(self, k: Ints, first: Ints, bins: int = BINS) -> Ints:
        """[bins, D] counts on other bins [D]: of width 2^k, no finer than these, from number `first` on.

        Each is a difference of two cumulated counts of these bins, so it stays whole. What lies outside is not counted.
        """
        # 2^31 bins of ours reach beyond any that counts, and a longer shift would overflow
        coarser = np.minimum(k - self.k, 31)[:, None]
        edges = ((first[:, None] + np.arange(bins + 1)) << coarser) - self.first[:, None]
        np.clip(edges, 0, self.bins, out=edges)
        below = np.zeros((len(first), self.bins + 1), dtype=np.int64)
        np.cumsum(self.counts.T, axis=1, out=below[:, 1:])
        edges += np.arange(len(first))[:, None] * (self.bins + 1)
        counts: Ints = np.diff(below.ravel()[edges], axis=1)
        return counts.T

    def quantiles(self, q: Sequence[float]) -> Array:
        """[Q, D] estimates of NumPy's quantiles, for values that are not kept: each off by one bin width at the most.

        The values of a bin are taken to lie at equal steps in it, so each value is off by less than a bin width, and so is whatever is
        interpolated between two of them.

        Raises:
            ValueError: there are no values.
        """
        if self.n == 0:
            raise ValueError("no values have no quantiles")
        place = np.asarray(q, dtype=np.float64) * (self.n - 1)
        below = np.floor(place).astype(np.int64)
        low, high = self._ranked(below), self._ranked(np.minimum(below + 1, self.n - 1))
        found: Array = low + (place - below)[:, None] * (high - low)
        return found

    def shares(self, lower: Array, upper: Array) -> Array:
        """[D] estimates of the share of values in closed intervals [D, I] that do not meet.

        The values of a bin are taken to lie evenly in it, so each is off by the share of the bins that an end lies in at the most.
        """
        if self.n == 0:
            return np.full(len(self.first), np.nan)
        up_to = np.zeros((len(self.first), self.bins + 1))
        np.cumsum(self.counts.T, axis=1, out=up_to[:, 1:])

        def below(edge: Array) -> Array:
            """[D, I] about how many values lie below."""
            place = np.clip(np.nan_to_num(edge / self.width[:, None] - self.first[:, None]), 0, self.bins)
            at = np.minimum(place.astype(np.int64), self.bins - 1)
            whole, beyond = (np.take_along_axis(up_to, bin_, axis=1) for bin_ in (at, at + 1))
            return np.asarray(whole + (place - at) * (beyond - whole))

        held = np.maximum(below(upper) - below(lower), 0)
        found: Array = np.where(lower <= upper, held, 0).sum(axis=1) / self.n
        return found

    def _ranked(self, ranks: Ints) -> Array:
        """[Q, D] about where the values of some ranks [Q] lie, 0 the smallest."""
        up_to = np.cumsum(self.counts, axis=0)
        at = np.stack([(up_to <= rank).sum(axis=0) for rank in ranks])
        own = np.take_along_axis(self.counts, at, axis=0)
        before = np.take_along_axis(up_to, at, axis=0) - own
        found: Array = (self.first + at + (ranks[:, None] - before + 0.5) / own) * self.width
        return found


def aligned(parts: Sequence[Histogram]) -> tuple[Histogram, Ints]:
    """The histogram of all values together, and every part's counts [C, B, D] on its bins, such as concepts' on a neuron's edges.

    Args:
        parts: with equally many bins.
    """
    bins = parts[0].bins
    # what holds no values has no say in the bins
    seen = [part for part in parts if part.n] or parts
    k = np.max([part.k for part in seen], axis=0)
    # >> rounds down, negative numbers too, as the bins do; NumPy's gives 0 or -1 however far it goes
    first = np.min([part.first >> (k - part.k) for part in seen], axis=0)
    last = np.max([part.last >> (k - part.k) for part in seen], axis=0)
    excess = _excess(first, last, bins)
    k, first = k + excess, first >> excess
    counts = np.stack([part.on(k, first, bins) for part in parts])
    return Histogram(sum(part.n for part in parts), k, first, counts.sum(axis=0)), counts


def _binned(values: Floats, bins: int) -> tuple[Ints, Ints, Ints]:
    """[D] k and [D] first of values [D, n], and their counts [D, bins]."""
    low, high = values.min(axis=1), values.max(axis=1)
    k = _finest(np.maximum(-low, high))
    first, last = (np.floor(end * _power(-k)).astype(np.int64) for end in (low, high))
    excess = _excess(first, last, bins)
    k, first = k + excess, first >> excess
    # float64 scales every float32 by these powers of two exactly; float32 would flush small values to 0, into the wrong bin if negative
    place = values.astype(np.float64)
    place *= _power(-k)[:, None]
    np.floor(place, out=place)
    place += (np.arange(len(values)) * bins - first)[:, None]
    counts = np.bincount(place.astype(np.int64).ravel(), minlength=len(values) * bins)
    return k, first, counts.reshape(len(values), bins)


def _finest(largest: Floats) -> Ints:
    """[D] k of the spacing of float32 at the largest absolute values [D]: bins that are finer tell nothing apart."""
    # not by np.spacing, which is infinite at the largest float32
    spacing = np.frexp(largest)[1].astype(np.int64) - _DIGITS
    return np.where(largest > 0, np.maximum(spacing, _FINEST), _FINEST)


def _excess(first: Ints, last: Ints, bins: int) -> Ints:
    """[D] how often bins must be doubled until at most so many are needed from the first to the last."""
    times = np.zeros_like(first)
    while (many := (last >> times) - (first >> times) >= bins).any():
        times += many
    return times


def _power(k: Ints) -> Array:
    """2^k in float64, exact; by ldexp, which wants 32 bits where a C long has no more."""
    return np.ldexp(1.0, k.astype(np.int32))
