"""Overlap of concepts: of their activations in each neuron, and of the neurons that they are assigned.

Pairs of concepts come in the order of `itertools.combinations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.moments import Array, Moments

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# neurons at a time: 14 concepts x 64 bins x 512 neurons are 4 MB of float64
NEURONS = 512


def histogram_overlap(histogram: npt.NDArray[np.integer]) -> Floats:
    """[P, D] overlap coefficient of every pair of concepts: the sum over bins of the smaller share of rows, in [0, 1].

    Exactly 1 where the shares are the same, whatever the number of rows; 0 for a concept without rows.

    Args:
        histogram: [C, B, D] counts, on edges that a neuron's concepts share.
    """
    pairs = list(combinations(range(len(histogram)), 2))
    neurons = histogram.shape[2]
    found = np.zeros((len(pairs), neurons), dtype=np.float32)
    for start in range(0, neurons, NEURONS):
        counts = histogram[:, :, start : start + NEURONS].astype(np.float64)
        rows = counts.sum(axis=1)
        for at, (a, b) in enumerate(pairs):
            # whole numbers until the last division: shares would add up to a little more or less than 1
            shared = np.minimum(counts[a] * rows[b], counts[b] * rows[a]).sum(axis=0)
            whole = rows[a] * rows[b]
            found[at, start : start + NEURONS] = np.divide(shared, whole, out=np.zeros_like(whole), where=whole > 0)
    return found


def bhattacharyya(moments: Sequence[Moments]) -> Floats:
    """[P, D] Bhattacharyya coefficient of every pair of concepts' Gaussians (Bhattacharyya 1943), in [0, 1].

    The integral of sqrt(density_a density_b) = sqrt(2 s_a s_b / (s_a^2 + s_b^2)) exp(-(mean_a - mean_b)^2 / (4 (s_a^2 + s_b^2))). A neuron
    that is constant for one concept gives 0, the limit as its std vanishes while the other stays; one that is constant for both gives 1
    where the constants are equal, the limit as both stds vanish alike, and 0 where they differ.
    """
    found = [_coefficient(a, b) for a, b in combinations(moments, 2)]
    return np.stack(found) if found else np.zeros((0, len(moments[0].mean)), dtype=np.float32)


def jaccard(sets: Sequence[Ints]) -> Array:
    """[P] shared over all neurons of every pair of concepts' top sets; 1 for two empty ones."""
    found = []
    for a, b in combinations([{*own.tolist()} for own in sets], 2):
        union = len(a | b)
        found.append(len(a & b) / union if union else 1.0)
    return np.array(found, dtype=np.float64)


def polysemanticity(sets: Sequence[Ints], neurons: int) -> Ints:
    """[D] number of concepts whose top set holds the neuron.

    Args:
        sets: [C] top sets, each without repetition.
        neurons: D, the width of the site.
    """
    held = np.concatenate([*sets, np.empty(0, dtype=np.int64)])
    return np.bincount(held, minlength=neurons).astype(np.int64)


def _coefficient(a: Moments, b: Moments) -> Floats:
    both = np.hypot(a.std, b.std)
    gap = np.abs(a.mean - b.mean)
    spread = both > 0
    unit = np.where(spread, both, 1.0)
    # divided before they are multiplied, so that the squares of small stds do not vanish
    width = np.sqrt(np.minimum(2 * (a.std / unit) * (b.std / unit), 1))
    with np.errstate(over="ignore"):
        found = width * np.exp(-((gap / unit) ** 2) / 4)
    return np.where(spread, found, gap == 0).astype(np.float32)
