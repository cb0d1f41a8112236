"""What the fit knows, as the tables of its artifact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.artifact import read_table
from neuronlens.ranges.agreement import Agreement
from neuronlens.ranges.examples import find_examples, stored_examples
from neuronlens.ranges.normality import adjusted
from neuronlens.ranges.overlap import bhattacharyya, histogram_overlap, jaccard, polysemanticity
from neuronlens.ranges.rowless import SALIENCIES as NEEDING_ROWS
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.selection import Ranges
from neuronlens.ranges.statistics import SiteStatistics
from neuronlens.sites import Site
from neuronlens.streaming.extremes import Extremes
from neuronlens.values import Saliency

# every one that costs little; `probe` has a column of its own that is empty unless it ranks neurons, `mean` is the mean's
_SCORES = tuple(name for name in get_args(Saliency) if name not in ("mean", "probe"))
# of ranges: what a row is of, and the numbers that each neuron has
_KEY = ("site", "concept", "role", "saliency", "top", "range", "base", "tau", "threshold", "gate")
_SUMS = pa.list_(pa.float32())  # of the gate, one against the complement, one against ordinary tokens
_PER_NEURON = (
    *("dose_target", "dose_complement", "dose_ordinary"),
    *("mean", "std", "complement_mean", "complement_std", "pooled_mean"),
)


def statistics_table(statistics: SiteStatistics, saliencies: Iterable[str]) -> pa.Table:
    """statistics.parquet: one row per (site, concept, neuron).

    Args:
        saliencies: those that rank neurons; `probe` is fitted for its column only where it is among them.
    """
    neurons = np.arange(statistics.width, dtype=np.int32)
    tables = []
    for at, (concept, own, rest, tests) in enumerate(
        zip(statistics.concepts, statistics.moments, statistics.rest, statistics.normality, strict=True)
    ):
        p_values = {
            "jarque_bera_p": own.jarque_bera,
            "kolmogorov_smirnov_p": tests.ks_p,
            "anderson_darling_p": tests.ad_p,
        }
        columns: dict[str, object] = {
            "site": pa.array([str(statistics.site)] * statistics.width),
            "concept": pa.array([concept] * statistics.width),
            "neuron": neurons,
            "n": np.full(statistics.width, own.n, dtype=np.int32),
            "mean": own.mean,
            "std": own.std,
            "min": own.minimum,
            "max": own.maximum,
            "skewness": own.skewness,
            "kurtosis": own.kurtosis,
            "kolmogorov_smirnov": pa.array(tests.ks, from_pandas=True),
            "anderson_darling": pa.array(tests.ad, from_pandas=True),
            **{name: pa.array(p, from_pandas=True) for name, p in p_values.items()},
            **{f"{name}_adjusted": pa.array(adjusted(p), from_pandas=True) for name, p in p_values.items()},
            "complement_n": np.full(statistics.width, rest.n, dtype=np.int32),
            "complement_mean": rest.mean,
            "complement_std": rest.std,
            **{
                name: _scores(statistics, name, concept, not (statistics.distributions and name in NEEDING_ROWS))
                for name in _SCORES
            },
            "probe": _scores(statistics, "probe", concept, "probe" in saliencies),
            "quantiles": _fixed_lists(statistics.quantiles[at].T),
            "histogram_low": statistics.low,
            "histogram_high": statistics.high,
            "histogram": _fixed_lists(statistics.histogram[at].T),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


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
            "evidence_inside": pa.array(list(gate.inside.T) if gate else [None] * count, _SUMS),
            "evidence_outside": pa.array(list(gate.outside.T) if gate else [None] * count, _SUMS),
            "gate_threshold": pa.array([gate.threshold if gate else None] * count, _SUMS),
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
        agreement = None
        if gate != "none":
            inside, outside = (
                np.array(part[name].to_pylist(), dtype=np.float32).T for name in ("evidence_inside", "evidence_outside")
            )
            agreement = Agreement(inside, outside, np.array(part["gate_threshold"][0].as_py(), dtype=np.float32))
        neurons = part["neuron"].to_numpy().astype(np.int64)
        numbers = {name: part[name].to_numpy().astype(np.float64) for name in _PER_NEURON}
        found.append(
            Ranges(
                Site.parse(site),
                *(concept, saliency, top, kind, base, tau, threshold, gate, role),
                *(neurons, lower, upper),
                **numbers,
                agreement=agreement,
            )
        )
    return found


def overlap_table(statistics: SiteStatistics) -> pa.Table:
    """overlap.parquet: one row per (site, pair of concepts, neuron)."""
    pairs = list(combinations(statistics.concepts, 2))
    count = len(pairs) * statistics.width
    which = np.repeat(np.arange(len(pairs)), statistics.width)
    return pa.table(
        {
            "site": pa.array([str(statistics.site)] * count),
            # taken by Arrow: names that go through NumPy end at a NUL
            "concept": pa.array([a for a, _ in pairs], pa.string()).take(which),
            "other": pa.array([b for _, b in pairs], pa.string()).take(which),
            "neuron": np.tile(np.arange(statistics.width, dtype=np.int32), len(pairs)),
            "histogram_overlap": histogram_overlap(statistics.histogram).reshape(-1),
            "bhattacharyya": bhattacharyya(statistics.moments).reshape(-1),
        }
    )


def polysemanticity_table(statistics: SiteStatistics, rankings: Sequence[tuple[str, float]]) -> pa.Table:
    """polysemanticity.parquet: in how many concepts' top sets each neuron is, for every neuron that is in one.

    Args:
        rankings: saliency and share of the neurons.
    """
    tables = []
    for saliency, top in rankings:
        counts = polysemanticity(_top_sets(statistics, saliency, top), statistics.width)
        neurons = np.flatnonzero(counts)
        columns = {
            "site": pa.array([str(statistics.site)] * len(neurons)),
            "saliency": pa.array([saliency] * len(neurons)),
            "top": np.full(len(neurons), top),
            "neuron": neurons.astype(np.int32),
            "concepts": counts[neurons].astype(np.int32),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def jaccard_table(statistics: SiteStatistics, rankings: Sequence[tuple[str, float]]) -> pa.Table:
    """jaccard.parquet: how much the top sets of two concepts share, for every ranking and pair."""
    pairs = list(combinations(statistics.concepts, 2))
    rows = [
        {
            "site": str(statistics.site),
            "saliency": saliency,
            "top": top,
            "concept": a,
            "other": b,
            "jaccard": float(share),
        }
        for saliency, top in rankings
        for (a, b), share in zip(pairs, jaccard(_top_sets(statistics, saliency, top)), strict=True)
    ]
    return pa.Table.from_pylist(rows)


def examples_table(statistics: SiteStatistics) -> pa.Table:
    """examples.parquet: the fit rows on which each neuron is most and least active, by neuron, end and place."""
    if isinstance(statistics.extremes, Extremes):
        ends = stored_examples(statistics.extremes)
    else:
        ends = find_examples(statistics.values, statistics.rows, statistics.extremes)
    neurons, (width, count) = statistics.width * len(ends), ends[0].row.shape
    return pa.table(
        {
            "site": pa.array([str(statistics.site)] * (neurons * count)),
            "neuron": np.repeat(np.arange(width, dtype=np.int32), len(ends) * count),
            "end": np.tile(np.repeat([part.end for part in ends], count), width),
            "place": np.tile(np.arange(count, dtype=np.int8), neurons),
            "row": np.stack([part.row for part in ends], axis=1).reshape(-1),
            "value": np.stack([part.value for part in ends], axis=1).reshape(-1),
        }
    )


def _scores(statistics: SiteStatistics, name: str, concept: str, known: bool) -> pa.Array:
    """A saliency's column, empty where it was not computed."""
    return pa.array(statistics.saliency(name, concept) if known else [None] * statistics.width, pa.float64())


def _top_sets(statistics: SiteStatistics, saliency: str, top: float) -> list[npt.NDArray[np.int64]]:
    return [top_set(scores, top) for scores in statistics.saliencies(saliency)]


def _fixed_lists(rows: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])
