"""The fit: the ranges of the neurons that are selected, their controls, and the linear erasure they are held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuronlens.activations.ordinary import read_ordinary
from neuronlens.activations.store import Floats, read_activations
from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config, Gate, InterventionParams, RangeKind, Saliency, TunedParams
from neuronlens.ranges.agreement import Agreement, Flags, fit_agreement
from neuronlens.ranges.discriminative import discriminative_bounds
from neuronlens.ranges.leace import fit_erasures, write_erasures
from neuronlens.ranges.moments import Array
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.statistics import Ints, SiteStatistics, fit_statistics
from neuronlens.ranges.tables import jaccard_table, overlap_table, polysemanticity_table, statistics_table
from neuronlens.sites import Site

_KEY = ("site", "concept", "role", "saliency", "top", "range", "base", "tau", "threshold", "gate")
_PER_NEURON = (
    *("dose_target", "dose_complement", "dose_ordinary"),
    *("mean", "std", "complement_mean", "complement_std", "pooled_mean"),
)


_PLACES = 256  # tried for a control's interval


@dataclass(frozen=True)
class Ranges:
    """The selected neurons of one method for one concept.

    Attributes:
        site, concept: where and what.
        saliency, top: how neurons were ranked, and the share taken.
        kind: of range, `gaussian`, `quantile`, `discriminative`, `full`, or a control: `random_neurons`, `random_ranges`, `other_concept`.
        base: what a control mirrors, a kind of range with its gate (`gaussian+agreement`); `kind` itself otherwise.
        tau: half-width in standard deviations, None where the kind has none.
        threshold: ratio of densities of discriminative ranges, else None.
        gate: `none`, or `agreement` where a token is edited only if the neurons agree.
        role: `sweep`, or `tuned` where it is a candidate of the tuned method or the control of one.
        neurons: [K] in order of saliency.
        lower, upper: [K, I] float32, closed intervals; [inf, -inf] holds nothing.
        dose_target, dose_complement: [K] share of fit rows edited, of the concept and of the others.
        dose_ordinary: [K] share of ordinary tokens edited, NaN where none were read.
        mean, std: [K] of the concept's fit rows. complement_mean, complement_std: of all others'. pooled_mean: of both together.
        agreement: the gate, None without one.
    """

    site: Site
    concept: str
    saliency: str
    top: float
    kind: str
    base: str
    tau: float | None
    threshold: float | None
    gate: str
    role: str
    neurons: Ints
    lower: Floats
    upper: Floats
    dose_target: Array
    dose_complement: Array
    dose_ordinary: Array
    mean: Array
    std: Array
    complement_mean: Array
    complement_std: Array
    pooled_mean: Array
    agreement: Agreement | None = None

    @property
    def label(self) -> str:
        """The kind with its gate, which is what a control calls its base."""
        return self.kind if self.gate == "none" else f"{self.kind}+{self.gate}"


def fit_ranges(
    statistics: SiteStatistics,
    concept: str,
    *,
    saliency: Saliency = "d_prime",
    top: float = 0.1,
    kind: RangeKind = "gaussian",
    tau: float | None = 2.5,
    threshold: float | None = 1.0,
    gate: Gate = "none",
    role: str = "sweep",
) -> Ranges:
    """The ranges of a concept's top neurons.

    Args:
        saliency: how neurons are ranked (see `neuronlens.ranges.saliency`).
        top: share of the site's neurons.
        kind: `gaussian`: [mean - tau std, mean + tau std] of the concept's rows (paper, section 4); `quantile`: between the concept's
            quantiles at the same two probabilities of a normal distribution; `discriminative`: where the concept is denser than the
            complement and ordinary tokens; `full`: every value, so that a constant neuron is masked as well.
        tau: half-width in standard deviations; of no effect on `discriminative` and `full`.
        threshold: ratio of densities; of effect on `discriminative` only.
        gate: `agreement` edits a token only where the neurons together say it is the concept.

    Raises:
        SiteError: `top` is less than one neuron.
    """
    neurons = top_set(statistics.saliency(saliency, concept), top)
    tau, threshold = (
        (tau if kind in ("gaussian", "quantile") else None),
        (threshold if kind == "discriminative" else None),
    )
    lower, upper = _bounds(statistics, concept, neurons, kind, tau, threshold)
    identity: dict[str, Any] = {"saliency": saliency, "top": top, "kind": kind, "base": kind, "tau": tau}
    identity |= {"threshold": threshold, "gate": gate, "role": role}
    return _assemble(statistics, concept, identity, neurons, lower, upper)


def random_neurons(statistics: SiteStatistics, ranges: Ranges) -> Ranges:
    """Control: as many neurons chosen by chance, with ranges of the same width in their own standard deviations and a gate of their own."""
    neurons = top_set(statistics.saliency("random", ranges.concept), ranges.top)
    if ranges.kind == "discriminative":
        own = statistics.moments[statistics.index(ranges.concept)]
        lower, upper = (
            _carried(edge, ranges, own.mean[neurons], own.std[neurons]) for edge in (ranges.lower, ranges.upper)
        )
    else:
        lower, upper = _bounds(statistics, ranges.concept, neurons, ranges.kind, ranges.tau, None)
    identity = _identity(ranges) | {"saliency": "random", "kind": "random_neurons", "base": ranges.label}
    return _assemble(statistics, ranges.concept, identity, neurons, lower, upper)


def random_ranges(statistics: SiteStatistics, ranges: Ranges) -> Ranges:
    """Control: the same neurons, each with one interval at a place drawn by chance that holds as many of all fit rows as its range edits.

    Where rows share values (a rectified neuron at 0), nearly as many. There is no gate: what a gated range edits after the gate is the dose
    that the interval matches.
    """
    rows = np.concatenate([part[ranges.neurons] for part in statistics.values], axis=1).astype(np.float64)
    own = statistics.moments[statistics.index(ranges.concept)].n
    dose = (ranges.dose_target * own + ranges.dose_complement * (rows.shape[1] - own)) / rows.shape[1]
    # the same lots for a method, whether it is part of the sweep or a candidate
    drawn_for = sorted((name, value) for name, value in _identity(ranges).items() if name != "role")
    draw = statistics.draw(ranges.concept, "random_ranges", drawn_for)
    count = np.rint(dose * rows.shape[1]).astype(np.int64)
    lower, upper = (edge[:, None].astype(np.float32) for edge in _placed(np.sort(rows, axis=1), count, draw))
    identity = _identity(ranges) | {"kind": "random_ranges", "base": ranges.label, "gate": "none"}
    return _assemble(statistics, ranges.concept, identity, ranges.neurons, lower, upper)


def other_concept(ranges: Ranges, concepts: Sequence[str], found: Mapping[tuple[str, str], Ranges]) -> Ranges:
    """Control: the ranges of the concept that follows in alphabetical order (the first after the last), measured on this one.

    Args:
        found: (concept, label of the method) -> ranges of all concepts.
    """
    following = concepts[(concepts.index(ranges.concept) + 1) % len(concepts)]
    theirs = found[following, _label(ranges)]
    return replace(
        theirs,
        concept=ranges.concept,
        kind="other_concept",
        base=ranges.label,
        # shares of rows of this concept are not what the other concept's ranges were fitted on
        dose_target=np.full(len(theirs.neurons), np.nan),
        dose_complement=np.full(len(theirs.neurons), np.nan),
        dose_ordinary=np.full(len(theirs.neurons), np.nan),
    )


def sweep_ranges(statistics: SiteStatistics, config: Config) -> list[Ranges]:
    """All ranges a configuration asks for at a site, controls included, in a fixed order."""
    asked = config.interventions
    found: list[Ranges] = []
    for concept in statistics.concepts:
        found += candidate_ranges(statistics, concept, asked, config.fit.saliency, ("none",), "sweep")
        if asked.tuned is not None:
            found += candidate_ranges(statistics, concept, asked.tuned, asked.tuned.saliency, asked.tuned.gate, "tuned")
    known = {(ranges.concept, _label(ranges)): ranges for ranges in found}
    controls: dict[tuple[str, str], Ranges] = {}
    for ranges in found:
        for control in _controls(statistics, ranges, asked.controls, known):
            # random neurons are one control for all rankings; discriminative widths are those of the first
            controls.setdefault((ranges.concept, _label(control)), control)
    return [*found, *controls.values()]


def candidate_ranges(
    statistics: SiteStatistics,
    concept: str,
    asked: InterventionParams | TunedParams,
    saliencies: Sequence[Saliency],
    gates: Sequence[Gate],
    role: str,
) -> Iterator[Ranges]:
    """Every set of ranges that lists of values ask for, for a concept.

    Args:
        asked: kinds of range, widths, thresholds and shares of the neurons.
        saliencies, gates: rankings and gates.
        role: which list it was.
    """
    for top, kind in product(asked.top, asked.ranges):
        taus: Sequence[float | None] = asked.tau if kind in ("gaussian", "quantile") else (None,)
        thresholds: Sequence[float | None] = asked.threshold if kind == "discriminative" else (None,)
        # whole neurons are in range everywhere, so there is nothing for them to agree on
        own_gates: Sequence[Gate] = ("none",) if kind == "full" else gates
        for tau, threshold, gate, saliency in product(taus, thresholds, own_gates, saliencies):
            yield fit_ranges(
                statistics,
                concept,
                saliency=saliency,
                top=top,
                kind=kind,
                tau=tau,
                threshold=threshold,
                gate=gate,
                role=role,
            )


def _controls(
    statistics: SiteStatistics, ranges: Ranges, asked: Sequence[str], known: Mapping[tuple[str, str], Ranges]
) -> Iterator[Ranges]:
    if "random_neurons" in asked:
        yield random_neurons(statistics, ranges)
    if (
        "random_ranges" in asked and ranges.kind != "full"
    ):  # another place for a range that is everywhere is the same range
        yield random_ranges(statistics, ranges)
    if "other_concept" in asked:
        yield other_concept(ranges, statistics.concepts, known)


def fit(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: statistics.parquet, ranges.parquet, overlap.parquet, polysemanticity.parquet, jaccard.parquet; if asked, leace.parquet.

    Args:
        inputs: `prepare` and `extract`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    dataset = read_table(inputs["prepare"] / "dataset.parquet")
    sites = sorted(Site.parse(path.name.removeprefix("site=")) for path in inputs["extract"].glob("site=*"))
    names = ("statistics", "ranges", "overlap", "polysemanticity", "jaccard")
    tables: dict[str, list[pa.Table]] = {name: [] for name in names}
    rankings = _rankings(config)
    erasures, unsettled, rows, tokens = [], [], {}, 0
    for site in sites:
        statistics = fit_statistics(
            read_activations(inputs["extract"], dataset, [site]),
            site,
            rows=config.fit.rows,
            ordinary=read_ordinary(inputs["extract"], site),
            seed=config.seed,
        )
        found = sweep_ranges(statistics, config)
        tables["statistics"].append(statistics_table(statistics, [saliency for saliency, _ in rankings]))
        tables["ranges"].append(ranges_table(found))
        tables["overlap"].append(overlap_table(statistics))
        tables["polysemanticity"].append(polysemanticity_table(statistics, rankings))
        tables["jaccard"].append(jaccard_table(statistics, rankings))
        if "leace" in config.interventions.controls:
            erasures += fit_erasures(statistics)
        unsettled += [f"site {site}: {note}" for note in statistics.notes]
        rows = {name: part.n for name, part in zip(statistics.concepts, statistics.moments, strict=True)}
        tokens = statistics.ordinary.values.shape[1]
    for name, parts in tables.items():
        write_table(out / f"{name}.parquet", pa.concat_tables(parts))
    if erasures:
        write_erasures(out / "leace.parquet", erasures)
    warnings = [
        f"concept {name!r}: ranges rest on {n} rows, fewer than {config.fit.minimum_rows}"
        for name, n in rows.items()
        if n < config.fit.minimum_rows
    ]
    return {
        "rows": rows,
        "sites": [str(site) for site in sites],
        "ordinary_tokens": tokens,
        "warnings": warnings + unsettled,
        "seed": config.seed,
    }


def _rankings(config: Config) -> list[tuple[str, float]]:
    """Saliency and share of every top set that is edited."""
    asked = config.interventions
    pairs = list(product(config.fit.saliency, asked.top))
    if asked.tuned is not None:
        pairs += product(asked.tuned.saliency, asked.tuned.top)
    return list(dict.fromkeys(pairs))


def ranges_table(found: Sequence[Ranges]) -> pa.Table:
    """The artifact ranges.parquet: one row per set of ranges and selected neuron, in order of saliency."""
    tables = []
    for part in found:
        count, gate = len(part.neurons), part.agreement
        columns: dict[str, object] = {
            "site": pa.array([str(part.site)] * count),
            "concept": pa.array([part.concept] * count),
            "role": pa.array([part.role] * count),
            "saliency": pa.array([part.saliency] * count),
            "top": np.full(count, part.top),
            "range": pa.array([part.kind] * count),
            "base": pa.array([part.base] * count),
            "tau": pa.array([part.tau] * count, pa.float64()),
            "threshold": pa.array([part.threshold] * count, pa.float64()),
            "gate": pa.array([part.gate] * count),
            "neuron": part.neurons.astype(np.int32),
            "lower": pa.array(list(part.lower), pa.list_(pa.float32())),
            "upper": pa.array(list(part.upper), pa.list_(pa.float32())),
            **{name: pa.array(getattr(part, name), from_pandas=True) for name in _PER_NEURON},
            "evidence_inside": pa.array(gate.inside if gate else [None] * count, pa.float32()),
            "evidence_outside": pa.array(gate.outside if gate else [None] * count, pa.float32()),
            "gate_threshold": pa.array([gate.threshold if gate else None] * count, pa.float64()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def read_ranges(file: Path) -> list[Ranges]:
    """The ranges that the stage `fit` wrote, one per method and concept, in the order they were written."""
    table = read_table(file)
    keys = list(zip(*(table[name].to_pylist() for name in _KEY), strict=True))
    edges = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]] + [len(keys)]
    found = []
    for start, end in pairwise(edges):
        site, concept, role, saliency, top, kind, base, tau, threshold, gate = keys[start]
        part = table.slice(start, end - start)
        lower, upper = (np.array(part[name].to_pylist(), dtype=np.float32) for name in ("lower", "upper"))
        numbers = {name: part[name].to_numpy() for name in (*_PER_NEURON, "evidence_inside", "evidence_outside")}
        agreement = None
        if gate != "none":
            agreement = Agreement(
                numbers["evidence_inside"].astype(np.float32),
                numbers["evidence_outside"].astype(np.float32),
                part["gate_threshold"][0].as_py(),
            )
        neurons = part["neuron"].to_numpy().astype(np.int64)
        others = {name: numbers[name].astype(np.float64) for name in _PER_NEURON}
        found.append(
            Ranges(
                Site.parse(site),
                *(concept, saliency, top, kind, base, tau, threshold, gate, role),
                *(neurons, lower, upper),
                **others,
                agreement=agreement,
            )
        )
    return found


def _bounds(
    statistics: SiteStatistics, concept: str, neurons: Ints, kind: str, tau: float | None, threshold: float | None
) -> tuple[Floats, Floats]:
    """[K, I] float32 bounds of some neurons' ranges."""
    at = statistics.index(concept)
    if kind == "discriminative" and threshold is not None:
        return discriminative_bounds(
            statistics.values[at][neurons],
            statistics.complement(concept)[neurons],
            statistics.ordinary.without(concept)[neurons],
            threshold,
        )
    if kind == "full" or tau is None:
        whole = np.full((len(neurons), 1), np.inf, dtype=np.float32)
        return -whole, whole
    if kind == "quantile":
        share = math.erf(tau / math.sqrt(2))
        ends = [(1 - share) / 2, (1 + share) / 2]
        lower, upper = np.quantile(statistics.values[at][neurons].astype(np.float64), ends, axis=1)
    else:
        mean, std = statistics.moments[at].mean[neurons], statistics.moments[at].std[neurons]
        lower, upper = mean - tau * std, mean + tau * std
    return lower[:, None].astype(np.float32), upper[:, None].astype(np.float32)


def _assemble(
    statistics: SiteStatistics,
    concept: str,
    identity: Mapping[str, Any],
    neurons: Ints,
    lower: Floats,
    upper: Floats,
) -> Ranges:
    """Ranges with their gate and doses."""
    at = statistics.index(concept)
    own, rest = statistics.moments[at], statistics.rest[at]
    parts = [part[neurons] for part in (statistics.values[at], statistics.complement(concept))]
    inside = [_inside(part, lower, upper) for part in (*parts, statistics.ordinary.without(concept)[neurons])]
    agreement = fit_agreement(*inside) if identity["gate"] == "agreement" else None
    if agreement is not None:
        inside = [part & agreement.passes(part) for part in inside]
    dose = [part.mean(axis=1) if part.shape[1] else np.full(len(neurons), np.nan) for part in inside]
    return Ranges(
        statistics.site,
        concept,
        **identity,
        neurons=neurons,
        lower=lower,
        upper=upper,
        dose_target=dose[0],
        dose_complement=dose[1],
        dose_ordinary=dose[2],
        mean=own.mean[neurons],
        std=own.std[neurons],
        complement_mean=rest.mean[neurons],
        complement_std=rest.std[neurons],
        pooled_mean=((own.n * own.mean + rest.n * rest.mean) / (own.n + rest.n))[neurons],
        agreement=agreement,
    )


def _inside(values: Floats, lower: Floats, upper: Floats) -> Flags:
    """[K, n] whether values [K, n] lie in one of the intervals [K, I]."""
    inside = np.zeros(values.shape, dtype=bool)
    for i in range(lower.shape[1]):
        inside |= (values >= lower[:, i, None]) & (values <= upper[:, i, None])
    return inside


def _placed(ordered: Array, count: Ints, draw: np.random.Generator) -> tuple[Array, Array]:
    """[K] bounds of an interval at a place drawn by chance that holds `count` of the sorted rows [K, n]; [inf, -inf] for none of them.

    An interval holds all or none of the rows that share a value: of several places drawn, the first that comes nearest to `count` rows.
    """
    import torch

    rows, least = ordered.shape[1], np.maximum(count, 1)[:, None]
    first = np.floor(draw.random((len(ordered), _PLACES)) * (rows - least + 1)).astype(np.int64)
    lower, upper = (np.take_along_axis(ordered, place, axis=1) for place in (first, first + least - 1))
    below, upto = (
        np.asarray(torch.searchsorted(torch.from_numpy(ordered), torch.from_numpy(edge), right=right))
        for edge, right in ((lower, False), (upper, True))
    )
    best = np.argmin(np.abs(upto - below - least), axis=1)[:, None]
    held = count > 0
    lower, upper = (np.take_along_axis(edge, best, axis=1)[:, 0] for edge in (lower, upper))
    return np.where(held, lower, np.inf), np.where(held, upper, -np.inf)


def _carried(edge: Floats, ranges: Ranges, mean: Array, std: Array) -> Floats:
    """[K, I] edges at as many standard deviations from other neurons' means; what holds nothing still holds nothing."""
    scale, finite = np.where(ranges.std > 0, ranges.std, 1.0), np.isfinite(edge)
    carried = (np.where(finite, edge, 0.0) - ranges.mean[:, None]) / scale[:, None] * std[:, None] + mean[:, None]
    return np.where(finite, carried, edge).astype(np.float32)


def _identity(ranges: Ranges) -> dict[str, Any]:
    names = ("saliency", "top", "kind", "base", "tau", "threshold", "gate", "role")
    return {name: getattr(ranges, name) for name in names}


def _label(ranges: Ranges) -> str:
    return repr(sorted(_identity(ranges).items()))
