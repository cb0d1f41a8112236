"""Rows in order: what counts and quantiles are read off, without another look at every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.activations.store import Floats
from neuronlens.streaming.moments import Array


@dataclass(frozen=True)
class Ordered:
    """What a concept's ranges hold some of, the values of each neuron ascending.

    Attributes:
        own: [D, n] the concept's rows.
        complement: [D, m] those of all other concepts.
        ordinary: [D, t] ordinary tokens; there may be none.
    """

    own: Floats
    complement: Floats
    ordinary: Floats

    @classmethod
    def of(cls, own: Floats, complement: Floats, ordinary: Floats) -> Ordered:
        """Of values in any order."""
        return cls(*(np.sort(part, axis=1) for part in (own, complement, ordinary)))

    def shares(self, neurons: npt.NDArray[np.int64], lower: Floats, upper: Floats) -> list[Array]:
        """[K] each, of the concept's rows, the others' and ordinary tokens: those in the closed intervals [K] of some neurons [K], none of
        them twice; NaN where there are none."""
        edges = np.zeros((2, len(self.own)), dtype=np.float32)
        edges[:, neurons] = lower, upper
        return [_share(part, *edges)[neurons] for part in (self.own, self.complement, self.ordinary)]


def _share(ordered: Floats, lower: Floats, upper: Floats) -> Array:
    """[D] of the rows of all neurons: what is looked up in vain for some of them costs less than a copy of the rows of the others."""
    import torch

    rows = ordered.shape[1]
    if not rows:
        return np.full(len(ordered), np.nan)
    values = torch.from_numpy(ordered)
    below, upto = (
        torch.searchsorted(values, torch.from_numpy(edge)[:, None], right=right).numpy()[:, 0]
        for edge, right in ((lower, False), (upper, True))
    )
    return np.asarray(np.maximum(upto - below, 0) / rows)  # an interval whose ends have changed places holds nothing
