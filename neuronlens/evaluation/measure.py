"""What an edit did to a concept and to the others: the measured columns of results.parquet."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.uncertainty import (
    Estimate,
    change_of_rate,
    difference,
    mcnemar_p,
    mean,
    mean_of_shares,
    wilson,
)

Array = npt.NDArray[np.float64]

GROUPS = ("target", "complement")
MEASURES = ("accuracy", "confidence")
SELECTIVITY = {"accuracy": "selectivity", "confidence": "confidence_selectivity"}
_P = ("target_p", "complement_p")


def _names() -> tuple[str, ...]:
    names: list[str] = []
    for group in GROUPS:
        for measured in MEASURES:
            name = f"{group}_{measured}"
            drop = f"{name}_drop"
            names += [name, f"{name}_low", f"{name}_high", f"base_{name}", drop, f"{drop}_low", f"{drop}_high"]
    for name in SELECTIVITY.values():
        names += [name, f"{name}_low", f"{name}_high"]
    return (*names, "dose_target", "dose_complement", *_P, *(f"{name}_adjusted" for name in _P))


MEASURED = _names()


def measure(scores: RowScores, concept: str, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The measured columns of some edits on one concept; intervals over rows, 95 %.

    Rates have Wilson's interval, drops of accuracy Tango's for paired rates, confidences and their drops those of means, selectivities
    the combination of both groups' (see `neuronlens.evaluation.uncertainty`). `target_p` and `complement_p` are exact McNemar tests of
    the drops of accuracy.

    Args:
        indices: of the edits in the scores, from 1.

    Returns:
        One mapping per edit; None where a group has no rows.
    """
    target = scores.truth == scores.concepts.index(concept)
    found: list[dict[str, Any]] = [dict.fromkeys(MEASURED) for _ in indices]
    if not target.any() or target.all():
        return found
    drops: dict[tuple[str, str], Estimate] = {}
    for group, members in (("target", target), ("complement", ~target)):
        n = int(members.sum())
        changed, looked_at = scores.changed[:, members].sum(axis=1), scores.looked_at[:, members].sum(axis=1)
        right, sure = scores.correct[:, members], scores.confidence[:, members].astype(np.float64)
        edited = right[list(indices)]
        lost, gained = (right[0] & ~edited).sum(axis=1), (~right[0] & edited).sum(axis=1)
        drops[group, "accuracy"] = change_of_rate(lost, gained, n)
        drops[group, "confidence"] = mean(sure[0] - sure[list(indices)], limits=(-1, 1))
        level = {"accuracy": _rates(edited), "confidence": mean_of_shares(sure[list(indices)])}
        base = {"accuracy": float(right[0].mean()), "confidence": float(sure[0].mean())}
        p = mcnemar_p(lost, gained)
        for i, (row, index) in enumerate(zip(found, indices, strict=True)):
            for measured in MEASURES:
                name = f"{group}_{measured}"
                row |= _spread(name, level[measured], i) | {f"base_{name}": base[measured]}
                row |= _spread(f"{name}_drop", drops[group, measured], i)
            row[f"n_{group}"] = n
            row[f"dose_{group}"] = float(changed[index] / looked_at[index]) if looked_at[index] else 0.0
            row[f"{group}_p"] = float(p[i])
    for measured, name in SELECTIVITY.items():
        selectivity = difference(drops["target", measured], drops["complement", measured])
        for i, row in enumerate(found):
            row |= _spread(name, selectivity, i)
    return found


def adjust(table: pa.Table) -> pa.Table:
    """Fill the adjusted p values: each method's over its concepts and sites (Benjamini-Hochberg)."""
    families = [*zip(table["role"].to_pylist(), table["method"].to_pylist(), strict=True)]
    for name in _P:
        column = table.column_names.index(f"{name}_adjusted")
        found = adjusted(table[name].to_pylist(), families)
        table = table.set_column(column, f"{name}_adjusted", pa.array(found, pa.float64()))
    return table


def adjusted(given: Sequence[float | None], families: Sequence[Hashable]) -> list[float | None]:
    """p values corrected over those that are known of their family (Benjamini-Hochberg); None stays None."""
    from scipy.stats import false_discovery_control

    places: dict[Hashable, list[int]] = {}
    for i, (p, family) in enumerate(zip(given, families, strict=True)):
        if p is not None:
            places.setdefault(family, []).append(i)
    found: list[float | None] = [None] * len(given)
    for index in places.values():
        for i, p in zip(index, false_discovery_control([given[i] for i in index]), strict=True):
            found[i] = float(p)
    return found


def _rates(right: npt.NDArray[np.bool_]) -> Estimate:
    hits, n = right.sum(axis=1), right.shape[1]
    ends = {int(count): wilson(int(count), n) for count in set(hits.tolist())}
    low, high = (np.array([ends[int(count)][end] for count in hits]) for end in (0, 1))
    return Estimate(hits / n, low, high)


def _spread(name: str, estimate: Estimate, i: int) -> dict[str, float]:
    ends = (name, f"{name}_low", f"{name}_high")
    return {key: float(part[i]) for key, part in zip(ends, estimate, strict=True)}
