"""Discriminative ranges: where a concept is denser than everything else that a range could fire on.

Densities are counted in quantile bins: edges are quantiles of the concept, the complement and ordinary tokens in equal parts, so that each
of them has a say however many rows it has and however its tails lie. Counts are smoothed over neighbouring bins and start from half a row
a bin (Jeffreys' prior), so that thirty rows do not make ranges out of chance. At a ratio of 1 the share of the concept inside minus that
of the others is the total variation distance of the two densities, the most that any set of activations could reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.activations.store import Floats
from neuronlens.ranges.ordered import Ordered
from neuronlens.streaming.moments import Array

BINS = 32
INTERVALS = 3  # those that hold most of the concept; what is left holds next to nothing of it
_PRIOR = 0.5
_CHUNK = 1 << 24  # values looked at at once

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Densities:
    """How dense a concept and what it is told from are, neuron by neuron; what thresholds on their ratio are put to.

    Attributes:
        edges: [D, BINS + 1] of the bins.
        own: [D, BINS] smoothed share of the concept's rows in each bin.
        others: [D, BINS] those of the complement, and of ordinary tokens where there are any.
        margin: [D] standard deviation of the concept.
    """

    edges: Array
    own: Array
    others: tuple[Array, ...]
    margin: Array

    @classmethod
    def of(cls, rows: Ordered) -> Densities:
        """Of a concept, its complement and ordinary tokens."""
        parts = []
        for chunk in _chunks(rows):
            edges = _edges(*chunk)
            parts.append((edges, chunk[0].std(axis=1), *_densities(edges, *chunk)))
        edges, margin, own, *others = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(edges, own, tuple(others), margin)

    def take(self, neurons: npt.NDArray[np.int64]) -> Densities:
        """Of some neurons."""
        others = tuple(other[neurons] for other in self.others)
        return Densities(self.edges[neurons], self.own[neurons], others, self.margin[neurons])

    def separation(self) -> Array:
        """[D] estimated total variation distance between the concept and what is nearest to it."""
        return np.asarray(np.min([np.maximum(self.own - other, 0).sum(axis=1) for other in self.others], axis=0))

    def bounds(self, threshold: float) -> tuple[Floats, Floats]:
        """Closed intervals where the concept's density exceeds `threshold` times the complement's and the ordinary tokens'.

        Args:
            threshold: ratio of densities.

        Returns:
            Lower and upper bounds [D, I] float32, I up to `INTERVALS`, those holding most of the concept first; what a neuron does not need
            is [inf, -inf], which holds nothing. The outermost bins reach one standard deviation of the concept beyond the rows seen.
        """
        # a void bin goes with the one before it, which holds the value that both start from
        counted = np.maximum.accumulate(np.where(_void(self.edges), 0, np.arange(BINS)), axis=1)
        dense = np.take_along_axis(self.own > threshold * np.max(self.others, axis=0), counted, axis=1)
        first, last = dense.copy(), dense.copy()
        first[:, 1:] &= ~dense[:, :-1]
        last[:, :-1] &= ~dense[:, 1:]
        run = np.cumsum(first, axis=1)  # number of the interval that a dense bin belongs to, from 1
        count = max(int(run.max(initial=0)), 1)
        found = np.full((2, len(self.edges), count), np.inf, dtype=np.float32)
        found[1] *= -1
        for bounds, ends, bound in zip(found, (first, last), _closed(self.edges, self.margin), strict=True):
            neuron, place = np.nonzero(ends)
            bounds[neuron, run[neuron, place] - 1] = bound[neuron, place]
        mass = np.stack([(self.own * (dense & (run == i + 1))).sum(axis=1) for i in range(count)], axis=1)
        # rounded, so that of intervals that hold equally much the lower comes first
        order = np.argsort(-np.round(mass, 12), axis=1, kind="stable")[:, :INTERVALS]
        lower, upper = (np.take_along_axis(bounds, order, axis=1) for bounds in found)
        return lower, upper


def _closed(edges: Array, margin: Array) -> tuple[Floats, Floats]:
    """[D, BINS] float32 bounds, inclusive, that hold the rows which `_counts` counts, the outermost a margin [D] more."""
    again, wide = np.diff(edges[:, :-1], axis=1, prepend=-np.inf) == 0, np.diff(edges, axis=1) > 0
    wide[:, -1] = False
    lower, upper = edges[:, :-1].copy(), edges[:, 1:].copy()
    lower[:, 0] -= margin
    upper[:, -1] += margin
    return _at_least(lower, again), -_at_least(-upper, wide)


def _at_least(edge: Array, beyond: npt.NDArray[np.bool_]) -> Floats:
    """The least float32 that is no less than a float64, or more than it."""
    near = edge.astype(np.float32)
    return np.where(np.where(beyond, near <= edge, near < edge), np.nextafter(near, np.float32(np.inf)), near)


def _edges(*groups: Array) -> Array:
    """[D, BINS + 1] edges that hold about equally much of the sorted groups in equal parts; outer edges are the extremes."""
    exact = [_quantiles(group) for group in groups if group.shape[1]]
    merged = np.sort(np.concatenate(exact, axis=1), axis=1)
    # of as many values as there are groups the middle one; of two, half-way between them
    middle = len(exact) * np.arange(1, BINS) + (len(exact) - 1) / 2
    inner = (merged[:, np.floor(middle).astype(int)] + merged[:, np.ceil(middle).astype(int)]) / 2
    return np.concatenate([merged[:, :1], inner, merged[:, -1:]], axis=1)


def _quantiles(ordered: Array) -> Array:
    """[D, BINS + 1] at equal steps, interpolated linearly as NumPy does."""
    place = np.linspace(0, ordered.shape[1] - 1, BINS + 1)
    below = np.floor(place).astype(int)
    lower, upper = ordered[:, below], ordered[:, np.ceil(place).astype(int)]
    return np.asarray(lower + (upper - lower) * (place - below))


def _densities(edges: Array, *groups: Array) -> list[Array]:
    """[D, BINS] smoothed share of each sorted group per bin. A group without rows is left out.

    Edges coincide where many rows share a value (a constant neuron, a rectified one): the first bin there holds that value, the others are
    void and have no share, so that a constant neuron separates nothing.
    """
    bins = ~_void(edges)
    return [_smoothed(_counts(edges, group), bins) for group in groups if group.shape[1]]


def _void(edges: Array) -> npt.NDArray[np.bool_]:
    """[D, BINS] bins between edges that coincide, but for the first of them."""
    return np.asarray((np.diff(edges, axis=1) == 0) & (np.diff(edges[:, :-1], axis=1, prepend=-np.inf) == 0))


def _counts(edges: Array, ordered: Array) -> Counts:
    """[D, BINS] rows per bin, edges counted upwards; of edges that coincide, the bin between the first two holds what lies on them."""
    import torch

    rows = torch.from_numpy(ordered)
    inner = torch.from_numpy(np.ascontiguousarray(edges[:, 1:-1]))
    below, upto = (np.asarray(torch.searchsorted(rows, inner, right=right)) for right in (False, True))
    again = edges[:, 1:-1] == edges[:, :-2]
    reached = np.zeros(edges.shape)
    reached[:, 1:-1], reached[:, -1] = np.where(again, upto, below), ordered.shape[1]
    return np.diff(reached, axis=1)


def _smoothed(counts: Counts, bins: npt.NDArray[np.bool_]) -> Array:
    padded = np.pad(counts, ((0, 0), (1, 1)), mode="edge")
    smooth = ((padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4 + _PRIOR) * bins
    return np.asarray(smooth / smooth.sum(axis=1, keepdims=True))


def _chunks(rows: Ordered) -> Iterator[tuple[Array, ...]]:
    """The groups in float64, some neurons at a time."""
    groups = (rows.own, rows.complement, rows.ordinary)
    step = max(1, _CHUNK // sum(group.shape[1] for group in groups))
    for start in range(0, len(rows.own), step):
        yield tuple(np.ascontiguousarray(group[start : start + step], dtype=np.float64) for group in groups)
