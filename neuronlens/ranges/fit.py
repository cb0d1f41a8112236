"""The fit: all ranges that a configuration asks for, their controls, and the linear erasure they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from neuronlens.activations.ordinary import read_ordinary
from neuronlens.activations.store import read_activations
from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config, InterventionParams, TunedParams
from neuronlens.ranges.controls import controls_of
from neuronlens.ranges.leace import fit_erasures, write_erasures
from neuronlens.ranges.rowless import without_rows
from neuronlens.ranges.selection import Ranges, fit_ranges, method_label
from neuronlens.ranges.statistics import SiteStatistics, fit_statistics, summed_statistics
from neuronlens.ranges.tables import (
    examples_table,
    jaccard_table,
    overlap_table,
    polysemanticity_table,
    ranges_table,
    statistics_table,
)
from neuronlens.sites import Site
from neuronlens.streaming.summary import MOMENTS, read_summary
from neuronlens.values import WIDTHS, Gate, Saliency


def sweep_ranges(statistics: SiteStatistics, config: Config) -> list[Ranges]:
    """All ranges a configuration asks for at a site, controls included, in a fixed order."""
    asked = config.interventions
    found: list[Ranges] = []
    for concept in statistics.concepts:
        found += candidate_ranges(statistics, concept, asked, config.fit.saliency, ("none",), "sweep")
        if asked.tuned is not None:
            found += candidate_ranges(statistics, concept, asked.tuned, asked.tuned.saliency, asked.tuned.gate, "tuned")
    known = {(ranges.concept, method_label(ranges)): ranges for ranges in found}
    controls: dict[tuple[str, str], Ranges] = {}
    for ranges in found:
        for control in controls_of(statistics, ranges, asked.controls, known):
            # random neurons are one control for all rankings; discriminative widths are those of the first
            controls.setdefault((ranges.concept, method_label(control)), control)
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
        taus: Sequence[float | None] = asked.tau if WIDTHS[kind] == "tau" else (None,)
        thresholds: Sequence[float | None] = asked.threshold if WIDTHS[kind] == "threshold" else (None,)
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


def fit(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: statistics, ranges, overlap, polysemanticity, jaccard and examples, each in a .parquet; if asked, leace.parquet.

    Args:
        inputs: `prepare` and `extract`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    dataset = read_table(inputs["prepare"] / "dataset.parquet")
    unsettled: list[str] = []
    if is_summed_up(inputs["extract"]):
        config, unsettled = without_rows(config)
    sites = sorted(Site.parse(path.name.removeprefix("site=")) for path in inputs["extract"].glob("site=*"))
    names = ("statistics", "ranges", "overlap", "polysemanticity", "jaccard", "examples")
    tables: dict[str, list[pa.Table]] = {name: [] for name in names}
    rankings = _rankings(config)
    erasures, rows, tokens = [], {}, 0
    for site in sites:
        statistics = _statistics(config, inputs["extract"], dataset, site)
        found = sweep_ranges(statistics, config)
        tables["statistics"].append(statistics_table(statistics, [saliency for saliency, _ in rankings]))
        tables["ranges"].append(ranges_table(found))
        tables["overlap"].append(overlap_table(statistics))
        tables["polysemanticity"].append(polysemanticity_table(statistics, rankings))
        tables["jaccard"].append(jaccard_table(statistics, rankings))
        tables["examples"].append(examples_table(statistics))
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


def is_summed_up(extract: Path) -> bool:
    """Whether the stage `extract` has kept statistics in place of rows.

    Args:
        extract: its folder.
    """
    return any(extract.glob(f"site=*/{MOMENTS}"))


def _statistics(config: Config, extract: Path, dataset: pa.Table, site: Site) -> SiteStatistics:
    """Of the rows of a site, or of the summary in their place."""
    how: dict[str, Any] = {
        "rows": config.fit.rows,
        "ordinary": read_ordinary(extract, site),
        "seed": config.seed,
    }
    if is_summed_up(extract):
        concepts = sorted(set(dataset["concept"].to_pylist()))
        return summed_statistics(read_summary(extract / f"site={site}"), site, concepts, **how)
    return fit_statistics(read_activations(extract, dataset, [site]), site, **how)


def _rankings(config: Config) -> list[tuple[str, float]]:
    """Saliency and share of every top set that is edited."""
    asked = config.interventions
    pairs = list(product(config.fit.saliency, asked.top))
    if asked.tuned is not None:
        pairs += product(asked.tuned.saliency, asked.tuned.top)
    return list(dict.fromkeys(pairs))
