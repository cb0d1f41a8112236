"""The most extreme values of each neuron and the rows behind them: a bounded list, however many rows there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.blocks import blocks

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXAMPLES = 5
"""Examples of each end, fewer where there are fewer rows."""


@dataclass(frozen=True)
class Extremes:
    """Of the rows seen, the most extreme first; of equal values the lower row comes first.

    Attributes:
        highest, lowest: [D, K] values of either end, K up to `EXAMPLES`.
        highest_row, lowest_row: [D, K] rows of the dataset.
    """

    highest: Floats
    highest_row: Ints
    lowest: Floats
    lowest_row: Ints

    @classmethod
    def of(cls, values: Floats, rows: Ints) -> Extremes:
        """Of values [D, n] of some rows [n], none of them twice; n may be 0."""
        order = np.argsort(rows)
        count = min(EXAMPLES, len(rows))
        ends: list[Any] = []
        for sign in (1, -1):
            found: list[tuple[Ints, Floats]] = [
                (np.empty((0, count), dtype=np.int64), np.empty((0, count), np.float32))
            ]
            for cut in blocks(len(values), len(rows)) if count else ():
                part = sign * values[cut][:, order]
                threshold = np.partition(part, -count, axis=1)[:, -count]
                at, extreme = largest(part, threshold, count)
                found.append((rows[order][at], sign * extreme))
            row, value = (np.concatenate(columns) for columns in zip(*found, strict=True))
            ends += [value.reshape(len(values), count), row.reshape(len(values), count)]
        return cls(*ends)

    def merge(self, other: Extremes) -> Extremes:
        """Of the rows of both together."""
        ends: list[Any] = []
        for end, sign in (("highest", -1), ("lowest", 1)):
            value, row = (
                np.concatenate([getattr(part, name) for part in (self, other)], axis=1) for name in (end, f"{end}_row")
            )
            best = np.lexsort((row, sign * value), axis=1)[:, :EXAMPLES]
            ends += [np.take_along_axis(value, best, axis=1), np.take_along_axis(row, best, axis=1)]
        return Extremes(*ends)


def largest(values: Floats, threshold: Floats, count: int) -> tuple[Ints, Floats]:
    """[D, K] columns of the largest of values [D, n] and these, largest first, ties by lower column.

    Args:
        threshold: [D] the K-th largest.
    """
    neuron, column = np.nonzero(values >= threshold[:, None])
    ties = values[neuron, column] == threshold[neuron]
    # fewer than K values are larger; where more than the missing ones equal the threshold, the first of them do
    missing = count - np.bincount(neuron[~ties], minlength=len(values))
    place = np.cumsum(ties) - 1
    first = np.searchsorted(neuron[ties], np.arange(len(values)))
    kept = ~ties | (place - first[neuron] < missing[neuron])
    at = column[kept].reshape(len(values), count)
    extreme = np.take_along_axis(values, at, axis=1)
    order = np.argsort(-extreme, axis=1, kind="stable")
    return np.take_along_axis(at, order, axis=1), np.take_along_axis(extreme, order, axis=1)
