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
from neuronlens.ranges.blocks import blocks

Ints = npt.NDArray[np.int64]

EXAMPLES = 5
"""Examples of each end, fewer where there are fewer rows."""


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
            at, extreme = _largest(sign * part, sign * threshold[cut], thresholds.count)
            found[end].append((row[order][at], sign * extreme))
    highest, lowest = (
        Examples(end, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        for end, parts in found.items()
    )
    return highest, lowest


def _largest(values: Floats, threshold: Floats, count: int) -> tuple[Ints, Floats]:
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
    largest = np.take_along_axis(values, at, axis=1)
    order = np.argsort(-largest, axis=1, kind="stable")
    return np.take_along_axis(at, order, axis=1), np.take_along_axis(largest, order, axis=1)
