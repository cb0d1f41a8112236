"""Ranges before and after: of each concept the selected neurons whose activations moved farthest, with the range either audit masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from neuronlens.artifact import read_table
from neuronlens.comparison.drift import Drift, range_states
from neuronlens.comparison.stored import StoredAudit

LISTED = 6
"""Neurons of each concept at a site."""
_USUAL = 2.0  # half-width in standard deviations, of which a range is shown where several were swept

Bounds = Mapping[tuple[str, str], Mapping[int, tuple[float, float]]]


def movements(a: StoredAudit, b: StoredAudit, drifts: Sequence[Drift]) -> list[dict[str, Any]]:
    """One row per site, concept and neuron, those that moved farthest first.

    Rows have `site`, `concept`, `neuron`, `tau`, `state` (one of `neuronlens.comparison.drift.STATES`), `wasserstein`, `unit` (pooled std),
    `mean_before`, and `lower_before`, `upper_before`, `lower_after`, `upper_after`: None on the side where no ranking selects the neuron.
    There are none where the audits share no width of range.
    """
    taus = sorted(_taus(a) & _taus(b), key=lambda tau: (abs(tau - _USUAL), tau))
    if not taus:
        return []
    old, new = (_bounds(audit, taus[0]) for audit in (a, b))
    found = []
    for part in drifts:
        place = str(part.site), part.concept
        before, after = old.get(place, {}), new.get(place, {})
        states = range_states([*before], [*after], part)
        far = [n for n in states if 0 < part.distance[n] < math.inf]
        for neuron in sorted(far, key=lambda n: (-part.distance[n], n))[:LISTED]:
            stds = part.before.std[neuron], part.after.std[neuron]
            bounds = {
                f"{end}_{when}": known[neuron][at] if neuron in known else None
                for when, known in (("before", before), ("after", after))
                for at, end in enumerate(("lower", "upper"))
            }
            found.append(
                {
                    "site": place[0],
                    "concept": part.concept,
                    "neuron": neuron,
                    "tau": taus[0],
                    "state": states[neuron],
                    "wasserstein": float(part.distance[neuron]),
                    "unit": math.sqrt((stds[0] ** 2 + stds[1] ** 2) / 2),
                    "mean_before": float(part.before.mean[neuron]),
                    **bounds,
                }
            )
    return found


def _taus(audit: StoredAudit) -> set[float]:
    table = _gaussian(audit, ["tau"])
    return {*pc.unique(table["tau"]).to_pylist()}


def _bounds(audit: StoredAudit, tau: float) -> Bounds:
    """(site, concept) -> neuron -> its range. It is the same whatever ranking selects the neuron."""
    table = _gaussian(audit, ["site", "concept", "neuron", "tau", "lower", "upper"])
    own = table.filter(pc.equal(table["tau"], tau))
    columns = [own[name].to_pylist() for name in ("site", "concept", "neuron", "lower", "upper")]
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for site, concept, neuron, lower, upper in zip(*columns, strict=True):
        found.setdefault((site, concept), {})[neuron] = lower[0], upper[0]
    return found


def _gaussian(audit: StoredAudit, columns: Sequence[str]) -> Any:
    """Ranges of the sweep that are mean plus and minus tau stds."""
    table = read_table(audit.folders["fit"] / "ranges.parquet", [*dict.fromkeys([*columns, "range", "role"])])
    return table.filter(pc.and_(pc.equal(table["range"], "gaussian"), pc.equal(table["role"], "sweep")))
