"""The comparison of two audits as an artifact: comparison.json for programs, and the tables behind it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuronlens import methods
from neuronlens.artifact import finite, fresh_folder, hash_value, write_json, write_manifest, write_table
from neuronlens.comparison import CHANGES, COMPARISON, SCHEMA_VERSION
from neuronlens.comparison.changes import Change, base_changes, corrected, edit_changes, text_changes
from neuronlens.comparison.drift import STATES, Drift, drift, drift_table, range_states
from neuronlens.comparison.movements import movements
from neuronlens.comparison.page import html
from neuronlens.comparison.rankings import PERSISTENCE, rank_biased_overlap
from neuronlens.comparison.stored import StoredAudit, check_comparable
from neuronlens.ranges.overlap import jaccard
from neuronlens.ranges.saliency import top_set
from neuronlens.sites import Site

_FARTHEST = 20  # neurons listed per site

Rows = list[dict[str, Any]]


def compare(a: Path, b: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Compare the audit in `b` with the one in `a`, which came before it, into a folder that appears when whole.

    comparison.json, comparison.html, changes.parquet (one row per `Change`), drift.parquet (per site, concept and neuron), ranges.parquet
    (what became of each neuron's range under each method's selection).

    Args:
        seed: decides the draws behind tests and floors.

    Returns:
        comparison.json.

    Raises:
        UserError: they are not finished audits of the same rows, or share no site.
    """
    first, second = StoredAudit.open(a), StoredAudit.open(b)
    sites = check_comparable(first, second)
    changes = _changes(first, second, sites, seed)
    drifts = [part for site in sites for part in site_drift(first, second, site, seed)]
    states, rankings = _ranges(first, second, sites, drifts)
    document = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "audits": [told(audit) for audit in (first, second)],
            "identical": unchanged(first, second),
            "sites": [str(site) for site in sites],
            "changes": [asdict(change) for change in changes if change.method is None or change.role == "chosen"],
            "decided": [asdict(change) for change in changes if change.direction],
            "drift": [_drift_row(part) for part in drifts],
            "farthest": _farthest(drifts),
            "movements": movements(first, second, drifts),
            "ranges": _state_counts(states),
            "rankings": rankings,
            "seed": seed,
        }
    )
    inputs = {
        f"{name} of {which}": digest
        for which, audit in (("a", first), ("b", second))
        for name, digest in audit.hashes.items()
    }
    with fresh_folder(out) as folder:
        write_json(folder / COMPARISON, document)
        (folder / "comparison.html").write_text(html(document), encoding="utf-8")
        write_table(folder / CHANGES, pa.Table.from_pylist([asdict(change) for change in changes]))
        if drifts:
            write_table(folder / "drift.parquet", drift_table(drifts))
        if states:
            write_table(folder / "ranges.parquet", pa.Table.from_pylist(states))
        write_manifest(
            folder,
            stage="compare",
            method=methods.COMPARE,
            inputs=inputs,
            params={"seed": seed},
            facts={"sites": document["sites"]},
        )
    found: dict[str, Any] = document
    return found


def unchanged(a: StoredAudit, b: StoredAudit) -> bool:
    """Whether both models read, said and did the same to the last bit, on all rows and under all edits."""
    return all(a.hashes[name] == b.hashes[name] for name in ("extract", "evaluate"))


def site_drift(a: StoredAudit, b: StoredAudit, site: Site, seed: int) -> list[Drift]:
    """Of every concept at a site that both read with equally many neurons, on the fit rows that both fitted on.

    None where an audit has kept no rows: what a resampling of them would give cannot be told from their statistics.
    """
    if a.facts["extract"]["widths"][str(site)] != b.facts["extract"]["widths"][str(site)]:
        return []
    if not all(audit.keeps_rows for audit in (a, b)):
        return []
    one, two = a.activations(site), b.activations(site)
    places = [np.argsort(audit.row) for audit in (one, two)]
    values = [audit.values[site][:, place] for audit, place in zip((one, two), places, strict=True)]
    used = a.split("fit") & _fitted(a) & _fitted(b)
    found = []
    for place, concept in enumerate(a.concepts):
        rows = np.flatnonzero(used & (a.truth == place))
        if len(rows) > 1:
            found.append(drift(site, concept, values[0][:, rows], values[1][:, rows], seed))
    return found


def _fitted(audit: StoredAudit) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[N] rows that the fit took of those it may take: all, or those that the model gets right."""
    kept = sum(audit.facts["fit"]["rows"].values())
    fit = audit.split("fit")
    right = audit.unedited["correct"].to_numpy(zero_copy_only=False)
    return np.full(len(fit), True) if kept == int(fit.sum()) else np.asarray(right, dtype=bool)


def _changes(a: StoredAudit, b: StoredAudit, sites: Sequence[Site], seed: int) -> list[Change]:
    found = base_changes(a, b, seed)
    for site in sites:
        found += edit_changes(a, b, site, seed)
        # the unedited models' perplexities are the same at every site
        found += [change for change in text_changes(a, b, site, seed) if change.site or site == sites[0]]
    return corrected(found)


def _ranges(a: StoredAudit, b: StoredAudit, sites: Sequence[Site], drifts: Sequence[Drift]) -> tuple[Rows, Rows]:
    """What became of each range of each selection, and how much the rankings behind them agree."""
    states: Rows = []
    rankings: Rows = []
    known = {(str(part.site), part.concept): part for part in drifts}
    tables = [audit.table("statistics") for audit in (a, b)]
    selections = [_selections(audit) for audit in (a, b)]
    for (site, concept, saliency, top), old in selections[0].items():
        new, part = selections[1].get((site, concept, saliency, top)), known.get((site, concept))
        if new is None or part is None:
            continue
        place = {"site": site, "concept": concept, "saliency": saliency, "top": top}
        states += [place | {"neuron": neuron, "state": state} for neuron, state in range_states(old, new, part).items()]
    for site in map(str, sites):
        for concept in a.concepts:
            for saliency in sorted({key[2] for key in selections[0]} & {key[2] for key in selections[1]}):
                scores = [_scores(table, site, concept, saliency) for table in tables]
                if scores[0] is None or scores[1] is None or len(scores[0]) != len(scores[1]):
                    continue
                orders = [top_set(values, 1.0) for values in scores if values is not None]
                tops = sorted(
                    {key[3] for key in selections[0] if key[2] == saliency}
                    & {key[3] for key in selections[1] if key[2] == saliency}
                )
                rankings.append(
                    {
                        "site": site,
                        "concept": concept,
                        "saliency": saliency,
                        "rank_biased_overlap": rank_biased_overlap(orders[0], orders[1]),
                        "persistence": PERSISTENCE,
                        "jaccard": {f"{top:g}": _shared(orders, top) for top in tops},
                    }
                )
    return states, rankings


def _shared(orders: Sequence[Any], top: float) -> float:
    count = max(1, math.floor(top * len(orders[0])))
    return float(jaccard([order[:count] for order in orders])[0])


def _selections(audit: StoredAudit) -> dict[tuple[str, str, str, float], list[int]]:
    """(site, concept, saliency, top) -> neurons selected, whatever the kind of range: it changes no selection."""
    table = audit.table("ranges")
    found: dict[tuple[str, str, str, float], list[int]] = {}
    if table is None:
        return found
    columns = [table[name].to_pylist() for name in ("site", "concept", "saliency", "top", "range", "role", "neuron")]
    kinds: dict[tuple[str, str, str, float], tuple[str, str]] = {}
    for site, concept, saliency, top, kind, role, neuron in zip(*columns, strict=True):
        if saliency == "random" or kind in ("random_neurons", "random_ranges", "other_concept"):
            continue
        key = (site, concept, saliency, top)
        if kinds.setdefault(key, (kind, role)) == (kind, role):
            chosen = found.setdefault(key, [])
            if neuron not in chosen[-1:] and (not chosen or neuron != chosen[0]):
                chosen.append(neuron)
    return {key: list(dict.fromkeys(neurons)) for key, neurons in found.items()}


def _scores(table: pa.Table | None, site: str, concept: str, saliency: str) -> Any:
    """[D] scores of a ranking, in order of neurons."""
    import pyarrow.compute as pc

    if table is None or saliency not in table.column_names:
        return None
    own = table.filter(pc.and_(pc.equal(table["site"], site), pc.equal(table["concept"], concept))).sort_by("neuron")
    scores = own[saliency]
    return None if scores.null_count or not len(own) else scores.to_numpy()


def _drift_row(part: Drift) -> dict[str, Any]:
    finite = part.distance[np.isfinite(part.distance)]
    return {
        "site": str(part.site),
        "concept": part.concept,
        "n": part.n,
        "neurons": len(part.distance),
        "max_wasserstein": float(finite.max(initial=0.0)),
        "median_wasserstein": float(np.median(finite)) if len(finite) else 0.0,
        "stray": part.stray,
        "floor": part.floor,
        "beyond_floor": int((part.distance > part.floor).sum()),
        "moved": int(part.moved.sum()),
        "widened": int((part.widened > 0).sum()),
        "narrowed": int((part.widened < 0).sum()),
    }


def _farthest(drifts: Sequence[Drift]) -> Rows:
    """The neurons of each site that moved farthest, with the concept on whose rows they did."""
    found: Rows = []
    for site in dict.fromkeys(part.site for part in drifts):
        own = [part for part in drifts if part.site == site]
        distances = np.stack([part.distance for part in own])
        concept = distances.argmax(axis=0)
        farthest = distances.max(axis=0)
        for neuron in np.argsort(-farthest, kind="stable")[:_FARTHEST].tolist():
            part = own[concept[neuron]]
            if part.distance[neuron] > 0:
                found.append(
                    {
                        "site": str(site),
                        "neuron": neuron,
                        "concept": part.concept,
                        "wasserstein": float(part.distance[neuron]),
                        "floor": part.floor,
                        "mean_before": float(part.before.mean[neuron]),
                        "std_before": float(part.before.std[neuron]),
                        "mean_after": float(part.after.mean[neuron]),
                        "std_after": float(part.after.std[neuron]),
                    }
                )
    return found


def _state_counts(states: Rows) -> Rows:
    counts: dict[tuple[str, str, str, float], Counter[str]] = {}
    for row in states:
        counts.setdefault((row["site"], row["concept"], row["saliency"], row["top"]), Counter())[row["state"]] += 1
    names = ("site", "concept", "saliency", "top")
    return [
        dict(zip(names, key, strict=True)) | {state: count[state] for state in STATES if count[state]}
        for key, count in counts.items()
    ]


def told(audit: StoredAudit) -> dict[str, Any]:
    """Which audit, of which checkpoint."""
    prepared, evaluated = (audit.facts[stage] for stage in ("prepare", "evaluate"))
    return {
        "audit": audit.name,
        "checkpoint": prepared["checkpoint"],
        "trust": {name: evaluated[name] for name in ("no_op_difference", "dtype", "device")}
        | {"versions": audit.versions},
        "artifacts": audit.hashes,
        "digest": hash_value(audit.hashes),
    }
