"""The fit: statistics of every neuron per concept, and the ranges of the neurons that are selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.activations.store import Activations, Floats, read_activations
from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config
from neuronlens.errors import DatasetError
from neuronlens.ranges.moments import Array, Moments, merge_all
from neuronlens.ranges.saliency import SALIENCIES, random_scores, top_set
from neuronlens.sites import Site

Ints = npt.NDArray[np.int64]

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BINS = 64


@dataclass(frozen=True)
class SiteStatistics:
    """What the fit knows of a site. Concepts and neurons are the axes.

    Attributes:
        site: which.
        concepts: [C].
        moments, rest: [C] of a concept's rows, and of all other concepts' rows pooled.
        quantiles: [C, Q, D] at `QUANTILES`.
        histogram: [C, BINS, D] counts, on edges that a neuron's concepts share.
        low, high: [D] outer edges of the histograms.
        values: [C] arrays [D, n_c], the fit rows themselves.
    """

    site: Site
    concepts: tuple[str, ...]
    moments: tuple[Moments, ...]
    rest: tuple[Moments, ...]
    quantiles: Array
    histogram: npt.NDArray[np.int32]
    low: Array
    high: Array
    values: tuple[Floats, ...]

    @property
    def width(self) -> int:
        """Number of neurons."""
        return len(self.low)

    def index(self, concept: str) -> int:
        """Place of a concept."""
        return self.concepts.index(concept)

    def saliency(self, name: str, concept: str, seed: int) -> Array:
        """[D] scores of the site's neurons for a concept; `random` is seeded."""
        if name == "random":
            return random_scores(self.width, seed, self.site, concept)
        at = self.index(concept)
        return SALIENCIES[name](self.moments[at], self.rest[at])


@dataclass(frozen=True)
class Ranges:
    """The selected neurons of one method for one concept.

    Attributes:
        site, concept: where and what.
        saliency, top: how neurons were ranked, and the share taken.
        kind: of range, `gaussian`, `full`, or the control `random_neurons`.
        tau: half-width in standard deviations, None for a whole neuron.
        neurons: [K] in order of saliency.
        lower, upper: [K, I] float32, closed intervals.
        dose_target, dose_complement: [K] share of fit rows inside, of the concept and of the others.
        replacement: [K] mean activation of the other concepts' rows, what `complement_mean` writes.
    """

    site: Site
    concept: str
    saliency: str
    top: float
    kind: str
    tau: float | None
    neurons: Ints
    lower: Floats
    upper: Floats
    dose_target: Array
    dose_complement: Array
    replacement: Array


def fit_rows(activations: Activations, rows: str, concepts: Sequence[str]) -> dict[str, Ints]:
    """Indices of the rows of each concept that a fit sees.

    Args:
        rows: `correct` keeps those the unedited model predicts right, `all` keeps all.

    Raises:
        DatasetError: a concept keeps fewer than two.
    """
    in_fit = np.array([split == "fit" for split in activations.split])
    if rows == "correct":
        in_fit &= activations.correct
    concept = np.array(activations.concept, dtype=object)
    kept = {name: np.flatnonzero(in_fit & (concept == name)) for name in concepts}
    for name, index in kept.items():
        if len(index) < 2:
            what = "predicted right by the model " if rows == "correct" else ""
            raise DatasetError(
                f"concept {name!r} has {len(index)} fit rows {what}- a range needs at least two",
                where="fit.rows",
                cure="Use fit.rows=all, or add rows." if rows == "correct" else "Add rows.",
            )
    return kept


def fit_statistics(activations: Activations, site: Site | str, *, rows: str = "correct") -> SiteStatistics:
    """Every statistic of every neuron of a site, per concept, vectorised over neurons.

    Raises:
        DatasetError: a concept has fewer than two rows to fit on.
    """
    where = Site.parse(site) if isinstance(site, str) else site
    concepts = tuple(sorted(set(activations.concept)))
    kept = fit_rows(activations, rows, concepts)
    values = tuple(activations.values[where][:, kept[name]] for name in concepts)
    moments = tuple(Moments.of(part) for part in values)
    rest = tuple(merge_all([part for j, part in enumerate(moments) if j != i]) for i in range(len(concepts)))
    low = np.min([part.minimum for part in moments], axis=0)
    high = np.max([part.maximum for part in moments], axis=0)
    # float64, since interpolating between float32 values loses digits on neurons with a large mean
    quantiles = np.stack([np.quantile(part.astype(np.float64), QUANTILES, axis=1) for part in values])
    histogram = np.stack([_histogram(part, low, high) for part in values])
    return SiteStatistics(where, concepts, moments, rest, quantiles, histogram, low, high, values)


def fit_ranges(
    statistics: SiteStatistics,
    concept: str,
    *,
    saliency: str = "d_prime",
    top: float = 0.1,
    kind: str = "gaussian",
    tau: float | None = 2.5,
    seed: int = 0,
) -> Ranges:
    """The ranges of a concept's top neurons.

    Args:
        saliency: `mean_abs`, `d_prime` or `random`.
        top: share of the site's neurons.
        kind: `gaussian`: [mean - tau std, mean + tau std] of the concept's rows (paper, section 4); `full`: every value, so that a constant
            neuron is masked as well; `random_neurons`: the control, as many neurons chosen at random, with ranges of their own of the same
            width in standard deviations (whole neurons where tau is None).
        tau: half-width in standard deviations; None for `full`.
    """
    at = statistics.index(concept)
    ranking = "random" if kind == "random_neurons" else saliency
    neurons = top_set(statistics.saliency(ranking, concept, seed), top)
    if kind == "full":
        tau = None
    if tau is None:
        lower = np.full(len(neurons), -np.inf, dtype=np.float32)
        upper = np.full(len(neurons), np.inf, dtype=np.float32)
    else:
        mean, std = statistics.moments[at].mean[neurons], statistics.moments[at].std[neurons]
        lower, upper = (mean - tau * std).astype(np.float32), (mean + tau * std).astype(np.float32)
    inside = [_share_inside(part[neurons], lower, upper) for part in statistics.values]
    others = [j for j in range(len(inside)) if j != at]
    counts = [statistics.moments[j].n for j in others]
    return Ranges(
        statistics.site,
        concept,
        ranking,
        top,
        kind,
        tau,
        neurons,
        lower[:, None],
        upper[:, None],
        inside[at],
        np.average([inside[j] for j in others], axis=0, weights=counts),
        statistics.rest[at].mean[neurons],
    )


def sweep_ranges(statistics: SiteStatistics, config: Config) -> list[Ranges]:
    """All ranges a configuration asks for at a site, controls included, in a fixed order."""
    asked = config.interventions
    found = []
    for concept in statistics.concepts:
        for top in asked.top:
            for kind in asked.ranges:
                taus: Sequence[float | None] = asked.tau if kind == "gaussian" else (None,)
                for tau in taus:
                    for saliency in config.fit.saliency:
                        found.append(
                            fit_ranges(
                                statistics, concept, saliency=saliency, top=top, kind=kind, tau=tau, seed=config.seed
                            )
                        )
                    for control in asked.controls:
                        found.append(fit_ranges(statistics, concept, top=top, kind=control, tau=tau, seed=config.seed))
    return found


def fit(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: statistics.parquet and ranges.parquet.

    Args:
        inputs: `prepare` and `extract`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    dataset = read_table(inputs["prepare"] / "dataset.parquet")
    sites = sorted(Site.parse(path.name.removeprefix("site=")) for path in inputs["extract"].glob("site=*"))
    statistics_tables, ranges_tables, rows = [], [], {}
    for site in sites:
        statistics = fit_statistics(read_activations(inputs["extract"], dataset, [site]), site, rows=config.fit.rows)
        statistics_tables.append(statistics_table(statistics, config.seed))
        ranges_tables.append(ranges_table(sweep_ranges(statistics, config)))
        rows = {name: part.n for name, part in zip(statistics.concepts, statistics.moments, strict=True)}
    write_table(out / "statistics.parquet", pa.concat_tables(statistics_tables))
    write_table(out / "ranges.parquet", pa.concat_tables(ranges_tables))
    few = [
        f"concept {name!r}: ranges rest on {n} rows, fewer than {config.fit.minimum_rows}"
        for name, n in rows.items()
        if n < config.fit.minimum_rows
    ]
    return {"rows": rows, "sites": [str(site) for site in sites], "warnings": few, "seed": config.seed}


def statistics_table(statistics: SiteStatistics, seed: int) -> pa.Table:
    """The artifact statistics.parquet: one row per (site, concept, neuron)."""
    neurons = np.arange(statistics.width, dtype=np.int32)
    tables = []
    for at, (concept, own, rest) in enumerate(
        zip(statistics.concepts, statistics.moments, statistics.rest, strict=True)
    ):
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
            "jarque_bera_p": own.jarque_bera,
            "complement_n": np.full(statistics.width, rest.n, dtype=np.int32),
            "complement_mean": rest.mean,
            "complement_std": rest.std,
            **{name: statistics.saliency(name, concept, seed) for name in (*SALIENCIES, "random")},
            "quantiles": _fixed_lists(statistics.quantiles[at].T),
            "histogram_low": statistics.low,
            "histogram_high": statistics.high,
            "histogram": _fixed_lists(statistics.histogram[at].T),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def ranges_table(found: Sequence[Ranges]) -> pa.Table:
    """The artifact ranges.parquet: one row per (site, concept, saliency, top, range, tau) and selected neuron."""
    tables = []
    for part in found:
        count = len(part.neurons)
        columns = {
            "site": pa.array([str(part.site)] * count),
            "concept": pa.array([part.concept] * count),
            "saliency": pa.array([part.saliency] * count),
            "top": np.full(count, part.top),
            "range": pa.array([part.kind] * count),
            "tau": pa.array([part.tau] * count, pa.float64()),
            "neuron": part.neurons.astype(np.int32),
            "lower": pa.array(list(part.lower), pa.list_(pa.float32())),
            "upper": pa.array(list(part.upper), pa.list_(pa.float32())),
            "dose_target": part.dose_target,
            "dose_complement": part.dose_complement,
            "replacement": part.replacement,
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def read_ranges(file: Path) -> list[Ranges]:
    """The ranges that the stage `fit` wrote, one per method and concept, in the order they were written."""
    table = read_table(file)
    keys = list(
        zip(*(table[name].to_pylist() for name in ("site", "concept", "saliency", "top", "range", "tau")), strict=True)
    )
    edges = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]] + [len(keys)]
    found = []
    for start, end in pairwise(edges):
        site, concept, saliency, top, kind, tau = keys[start]
        part = table.slice(start, end - start)
        lower, upper = (np.array(part[name].to_pylist(), dtype=np.float32) for name in ("lower", "upper"))
        others = [part[name].to_numpy() for name in ("dose_target", "dose_complement", "replacement")]
        neurons = part["neuron"].to_numpy().astype(np.int64)
        found.append(Ranges(Site.parse(site), concept, saliency, top, kind, tau, neurons, lower, upper, *others))
    return found


def _histogram(values: Floats, low: Array, high: Array) -> npt.NDArray[np.int32]:
    """[BINS, D] counts of values [D, n] on equal bins from low to high; the last bin is closed, as in NumPy."""
    neurons = len(values)
    scale = np.divide(BINS, high - low, out=np.zeros(neurons), where=high > low)
    place = ((values - low[:, None]) * scale[:, None]).astype(np.int64)
    flat = np.clip(place, 0, BINS - 1) + np.arange(neurons)[:, None] * BINS
    return np.bincount(flat.ravel(), minlength=neurons * BINS).reshape(neurons, BINS).T.astype(np.int32)


def _share_inside(values: Floats, lower: Floats, upper: Floats) -> Array:
    inside = (values >= lower[:, None]) & (values <= upper[:, None])
    return np.asarray(inside.mean(axis=1, dtype=np.float64))


def _fixed_lists(rows: npt.NDArray[np.generic]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])
