"""Choices that the validation rows make, so that the test rows judge what they had no part in choosing.

Only methods that are tuned alike can be compared. There are three families: the published method (gaussian ranges of the neurons with the
largest mean |a|, set to zero; its width and its count are free), masking whole neurons (its count is free), and the tuned method
(everything in `interventions.tuned` is free).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from neuronlens.evaluation.methods import Method
from neuronlens.ranges.selection import Ranges

Array = npt.NDArray[np.float64]

# name -> which methods belong to it
FAMILIES: Mapping[str, Callable[[Method], bool]] = {
    "paper": lambda method: _is(method, "gaussian", "mean_abs", "zero"),
    "whole": lambda method: _is(method, "full", "mean_abs", "zero"),
    "tuned": lambda method: method.role == "tuned" and not method.is_control,
}


def members(methods: Sequence[Method], site: str, concept: str, family: str) -> list[int]:
    """Places of a family's methods for a concept at a site, in the order of the configuration."""
    return [
        i
        for i, method in enumerate(methods)
        if (str(method.ranges.site), method.ranges.concept) == (site, concept) and FAMILIES[family](method)
    ]


def choose(methods: Sequence[Method], selectivity: Array, confidence_selectivity: Array) -> int:
    """The place of the best method: highest mean of the two selectivities on the validation rows.

    Accuracy alone cannot tell methods apart that leave every answer as it is, confidence alone could prefer one that changes no answer. Of
    equally good methods the one that edits the fewest ordinary tokens wins, then the first.

    Args:
        methods: at least one.
        selectivity, confidence_selectivity: of each, NaN where a concept has no validation rows; then the first method is taken.
    """
    score = (selectivity + confidence_selectivity) / 2
    if np.isnan(score).all():
        return 0
    score = np.nan_to_num(score, nan=-np.inf)
    # a millionth is far below a single row, and hides what rounding leaves
    best = np.flatnonzero(score >= score.max() - 1e-6)
    return min(best.tolist(), key=lambda i: (_ordinary_dose(methods[i]), i))


def rank(methods: Sequence[Method], selectivity: Array, confidence_selectivity: Array) -> list[int]:
    """Places from the best method to the last, each the one that `choose` takes of those that are left."""
    left, found = [*range(len(methods))], []
    while left:
        best = choose([methods[i] for i in left], selectivity[left], confidence_selectivity[left])
        found.append(left.pop(best))
    return found


def _ordinary_dose(method: Method) -> float:
    if not isinstance(method.ranges, Ranges) or np.isnan(method.ranges.dose_ordinary).all():
        return 0.0
    return float(np.nanmean(method.ranges.dose_ordinary))


def _is(method: Method, kind: str, saliency: str, operator: str) -> bool:
    ranges = method.ranges
    return (
        isinstance(ranges, Ranges)
        and (ranges.role, ranges.kind, ranges.saliency, ranges.gate) == ("sweep", kind, saliency, "none")
        and method.operator == operator
    )
