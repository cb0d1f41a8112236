"""Top examples: the rows on which a neuron is most and least active, of all concepts together.

No second sort is needed. Each concept's values are sorted for its quantiles anyway, and the extremes of all rows are among the ends of
these; they give each neuron's thresholds, and one comparison of its values with a threshold finds the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuronlens.activations.store import Floats
from neuronlens.streaming.blocks import blocks
from neuronlens.streaming.extremes import EXAMPLES, Extremes, largest

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Thresholds:
    """How extreme a value must be to be among a neuron's examples.

    Attributes:
        count: K, examples of an end.
        lowest, highest: [D] the K-th smallest and the K-th largest value of all rows.
    """

    count: int
    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, low_ends: Sequence[Floats], high_ends: Sequence[Floats]) -> Thresholds:
        """From each concept's `EXAMPLES` smallest and largest values [D, k], all of its values where it has fewer."""
        low, high = np.concatenate(low_ends, axis=1), np.concatenate(high_ends, axis=1)
        count = min(EXAMPLES, low.shape[1])
        return cls(
            count, np.partition(low, count - 1, axis=1)[:, count - 1], np.partition(high, -count, axis=1)[:, -count]
        )


@dataclass(frozen=True)
class Examples:
    """The most extreme rows of every neuron, the most extreme first; of equal values the lower row comes first.

    Attributes:
        end: `highest` or `lowest`.
        row: [D, K] rows of the dataset.
        value: [D, K] their activations.
    """

    end: str
    row: Ints
    value: Floats


def find_examples(values: Sequence[Floats], rows: Sequence[Ints], thresholds: Thresholds) -> tuple[Examples, Examples]:
    """The highest and the lowest examples of every neuron.

    Args:
        values: [C] arrays [D, n_c].
        rows: [C] arrays [n_c], the row of the dataset behind each value; none twice.
        thresholds: of these values.
    """
    row = np.concatenate(rows)
    order = np.argsort(row)
    found: dict[str, list[tuple[Ints, Floats]]] = {"highest": [], "lowest": []}
    for cut in blocks(len(thresholds.highest), len(row)):
        part = np.concatenate([own[cut] for own in values], axis=1)[:, order]
        for end, sign, threshold in (("highest", 1, thresholds.highest), ("lowest", -1, thresholds.lowest)):
            at, extreme = largest(sign * part, sign * threshold[cut], thresholds.count)
            found[end].append((row[order][at], sign * extreme))
    highest, lowest = (
        Examples(end, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        for end, parts in found.items()
    )
    return highest, lowest


def stored_examples(extremes: Extremes) -> tuple[Examples, Examples]:
    """The highest and the lowest examples of every neuron, of rows whose other activations were not kept."""
    return (
        Examples("highest", extremes.highest_row, extremes.highest),
        Examples("lowest", extremes.lowest_row, extremes.lowest),
    )
