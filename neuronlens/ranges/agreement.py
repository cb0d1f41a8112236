"""Agreement: a gate over the ranges of many neurons. A token is edited only where the selected neurons together say it is the concept.

A single neuron's range also holds activations of other rows and of ordinary text; that is why range masking costs perplexity. Whether a
neuron is in its range is one bit of evidence with a known likelihood ratio, and the bits of all selected neurons are added up (naive Bayes
over range indicators). Tokens whose sum stays below a threshold are left alone. The sum looks at one token only, so cached and uncached
decoding agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.ranges.moments import Array

Flags = npt.NDArray[np.bool_]

_FLOOR = 0.01  # no bit may count for more than log 99, since neurons repeat one another
_CANDIDATES = 201
_STEPS = 256  # to a nat: float32 sums of whole numbers of steps are exact up to 65536 nats, in any order


@dataclass(frozen=True)
class Agreement:
    """When the neurons agree.

    Attributes:
        inside, outside: [K] float32, evidence (nats) of a neuron that is in its range, and of one that is not; multiples of 1 / 256, so
            that whoever adds them up gets the same sum to the bit.
        threshold: least sum of the evidence.
    """

    inside: npt.NDArray[np.float32]
    outside: npt.NDArray[np.float32]
    threshold: float

    def passes(self, inside: Flags) -> Flags:
        """[n] where the neurons agree, for range indicators [K, n]."""
        return np.asarray(self.evidence(inside) >= self.threshold)

    def evidence(self, inside: Flags) -> npt.NDArray[np.float32]:
        """[n] sum of the neurons' evidence."""
        found = np.where(inside, self.inside[:, None], self.outside[:, None])
        return np.asarray(found.sum(axis=0, dtype=np.float32))


def fit_agreement(concept: Flags, complement: Flags, ordinary: Flags) -> Agreement:
    """The gate of K neurons.

    Each neuron is judged against whichever of complement and ordinary tokens is likelier to be in its range. The threshold is the one that
    lets through the largest share of the concept minus the larger share of the two others; of equally good ones the most lenient.

    Args:
        concept, complement, ordinary: [K, n] range indicators of the fit rows and of ordinary tokens; ordinary may have no columns.
    """
    others = [part for part in (complement, ordinary) if part.shape[1]]
    own = _clipped(concept.mean(axis=1))
    rest = _clipped(np.max([part.mean(axis=1) for part in others], axis=0))
    gate = Agreement(_rounded(np.log(own / rest)), _rounded(np.log((1 - own) / (1 - rest))), -np.inf)
    target, *background = (gate.evidence(part) for part in (concept, *others))
    candidates = np.unique(np.quantile(target, np.linspace(0, 1, _CANDIDATES), method="lower"))
    passed = [(part[:, None] >= candidates).mean(axis=0) for part in (target, *background)]
    gain = passed[0] - np.max(passed[1:], axis=0)
    return Agreement(gate.inside, gate.outside, float(candidates[int(np.argmax(gain))]))


def _clipped(share: Array) -> Array:
    return np.clip(share, _FLOOR, 1 - _FLOOR)


def _rounded(evidence: Array) -> npt.NDArray[np.float32]:
    return (np.rint(evidence * _STEPS) / _STEPS).astype(np.float32)
