"""Contrasts: what was chosen against its controls and against what else was chosen, row by row.

Means over concepts with the concepts as units need six concepts before anything can be decided. These contrasts keep the concepts fixed and
ask what other rows of them would have given, so they also decide for two concepts; what other concepts would have given they do not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.uncertainty import contributions, total

Array = npt.NDArray[np.float64]

# name -> measure, weight of the target's drop, weight of the complement's
EFFECTS: Mapping[str, tuple[str, float, float]] = {
    "selectivity": ("accuracy", 1.0, -1.0),
    "confidence_selectivity": ("confidence", 1.0, -1.0),
    "target_accuracy_drop": ("accuracy", 1.0, 0.0),
    "complement_accuracy_drop": ("accuracy", 0.0, 1.0),
}
_AGAINST = ("tuned/random_ranges", "tuned/random_neurons", "tuned/other_concept", "paper", "whole")


def contrasts_table(scores: RowScores, edits: Mapping[tuple[str, str], Mapping[str, int]]) -> pa.Table:
    """contrasts.parquet: one row per site, pair of methods and effect, mean over the concepts that have both.

    Args:
        scores: of the test rows.
        edits: (site, method) -> concept -> index of its edit in the scores, from 1; methods are those the validation rows chose.
    """
    rows: list[dict[str, Any]] = []
    for site in sorted({site for site, _ in edits}):
        pairs: Sequence[tuple[str, str | None]] = (
            *(("tuned", other) for other in (None, *_AGAINST)),
            *(("paper", other) for other in (None, "whole")),
        )
        for method, other in pairs:
            own, theirs = edits.get((site, method), {}), None if other is None else edits.get((site, other), {})
            concepts = [name for name in own if theirs is None or name in theirs]
            if not concepts:
                continue
            for effect, (measured, target, complement) in EFFECTS.items():
                parts, unseen = row_parts(
                    scores, [own[name] for name in concepts], concepts, measured, target, complement
                )
                if theirs is not None:
                    parts = (
                        parts
                        - row_parts(
                            scores, [theirs[name] for name in concepts], concepts, measured, target, complement
                        )[0]
                    )
                most = abs(target) + abs(complement)  # no drop is larger than 1, nor is the difference of two
                found = total(parts, scores.truth, unseen if measured == "accuracy" else 0.0, limits=(-most, most))
                rows.append(
                    {
                        "site": site,
                        "method": method,
                        "against": other,
                        "effect": effect,
                        "concepts": len(concepts),
                        **{name: float(value[0]) for name, value in zip(("mean", "low", "high"), found, strict=True)},
                    }
                )
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("site", "method", "against", "effect")),
        ("concepts", pa.int32()),
        *((name, pa.float64()) for name in ("mean", "low", "high")),
    ]
)


def row_parts(
    scores: RowScores, index: Sequence[int], concepts: Sequence[str], measured: str, target: float, complement: float
) -> tuple[Array, float]:
    """[1, N] what each row adds to the mean over concepts."""
    values = (scores.correct if measured == "accuracy" else scores.confidence).astype(np.float64)
    drops = (values[0] - values[list(index)])[None]
    places = np.array([scores.concepts.index(name) for name in concepts])
    return contributions(drops, places, scores.truth, target, complement)
