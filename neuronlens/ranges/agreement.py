"""Agreement: a gate over the ranges of many neurons. A token is edited only where the selected neurons together say it is the concept.

A single neuron's range also holds activations of other rows and of ordinary text; that is why range masking costs perplexity. Whether a
neuron is in its range is one bit of evidence with a known likelihood ratio, and the bits of all selected neurons are added up (naive Bayes
over range indicators). There are two questions, since a token may be another concept's or nobody's, and the neurons that answer one need
not be those that answer the other: one sum says concept or complement, one says concept or ordinary text, and a token is edited only where
both are large enough. The sums look at one token only, so cached and uncached decoding agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.blocks import blocks
from neuronlens.streaming.moments import Array

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_FLOOR = 0.01  # no bit may count for more than log 99, since neurons repeat one another
_CANDIDATES = 201  # thresholds tried of each sum
_SLACK = (
    0.02  # shares of a few hundred rows are known no better, and a row of the concept that is shut out stays as it is
)
_STEPS = 256  # to a nat: float32 sums of whole numbers of steps are exact up to 65536 nats, in any order


@dataclass(frozen=True)
class Agreement:
    """When the neurons agree. The first axis is what the concept is told from: the complement, then ordinary tokens where there are any.

    Attributes:
        inside, outside: [B, K] float32, evidence (nats) of a neuron that is in its range, and of one that is not; multiples of 1 / 256, so
            that whoever adds them up gets the same sums to the bit.
        threshold: [B] float32, least sums of the evidence.
    """

    inside: Floats
    outside: Floats
    threshold: Floats

    def passes(self, inside: Flags) -> Flags:
        """[n] where the neurons agree, for range indicators [K, n]."""
        return np.asarray((self.evidence(inside) >= self.threshold[:, None]).all(axis=0))

    def evidence(self, inside: Flags) -> Floats:
        """[B, n] sums of the neurons' evidence."""
        return _evidence(inside, self.inside, self.outside)


def fit_agreement(concept: Flags, complement: Flags, ordinary: Flags) -> Agreement:
    """The gate of K neurons.

    A combination of thresholds is worth the share of the concept that it lets through minus the larger of the others' shares. Of those
    within `_SLACK` of the best, the one that lets through most of the concept is taken, then the worthiest, then the first.

    Args:
        concept, complement, ordinary: [K, n] range indicators of the fit rows and of ordinary tokens; ordinary may have no columns.
    """
    others = [part for part in (complement, ordinary) if part.shape[1]]
    own = _clipped(concept.mean(axis=1))
    rest = np.stack([_clipped(part.mean(axis=1)) for part in others])
    inside, outside = _rounded(np.log(own / rest)), _rounded(np.log((1 - own) / (1 - rest)))
    target, *background = (_evidence(part, inside, outside) for part in (concept, *others))
    candidates = [np.unique(np.quantile(sums, np.linspace(0, 1, _CANDIDATES), method="lower")) for sums in target]
    passed = _passed(target, candidates)
    worth = passed - np.max([_passed(sums, candidates) for sums in background], axis=0)
    close = worth >= worth.max() - _SLACK
    most = close & (passed == passed[close].max())
    best = np.unravel_index(int(np.argmax(np.where(most, worth, -np.inf))), worth.shape)
    threshold = np.array([tried[at] for tried, at in zip(candidates, best, strict=True)], dtype=np.float32)
    return Agreement(inside, outside, threshold)


def _evidence(flags: Flags, inside: Floats, outside: Floats) -> Floats:
    """[B, n] sums over the neurons [K] of range indicators [K, n]."""
    # all are whole numbers of steps, so float64 has these sums exactly, in any order and with what is taken off and put back
    gained, least = (part.astype(np.float64) for part in (inside - outside, outside))
    tokens = blocks(flags.shape[1], len(flags))
    sums = np.concatenate([gained @ flags[:, some].astype(np.float64) for some in tokens], axis=1)
    return np.asarray(sums + least.sum(axis=1, keepdims=True), dtype=np.float32)


def _passed(sums: Floats, candidates: Sequence[Floats]) -> Array:
    """Share of tokens whose sums [B, n] reach each combination of thresholds, B axes."""
    # how many thresholds of each sum a token reaches says which combinations it passes
    reached = [np.searchsorted(tried, own, side="right") for tried, own in zip(candidates, sums, strict=True)]
    shape = tuple(len(tried) + 1 for tried in candidates)
    count = np.bincount(np.ravel_multi_index(reached, shape), minlength=math.prod(shape)).reshape(shape)
    for axis in range(len(shape)):
        count = np.flip(np.flip(count, axis).cumsum(axis), axis)
    return np.asarray(count[tuple(slice(1, None) for _ in shape)] / sums.shape[1])


def _clipped(share: Array) -> Array:
    return np.clip(share, _FLOOR, 1 - _FLOOR)


def _rounded(evidence: Array) -> Floats:
    return (np.rint(evidence * _STEPS) / _STEPS).astype(np.float32)
