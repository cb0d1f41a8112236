"""An audit made by hand: the artifacts of the four stages before the report, without any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuronlens.activations.store import Activations
from neuronlens.artifact import write_manifest, write_table
from neuronlens.config import Config, load_config
from neuronlens.ranges.fit import fit_statistics, ranges_table, statistics_table, sweep_ranges
from neuronlens.sites import Site

CONCEPTS = ("arts", "finance", "health", "law", "science", "sports")
Drops = Callable[[str, str, int], tuple[float, float]]
"""(kind of range, saliency, place of the concept) -> accuracy drop on the target and on the others."""

_KINDS: tuple[tuple[str, float | None], ...] = (
    ("gaussian", 2.0),
    ("gaussian", 2.5),
    ("full", None),
    ("random_neurons", 2.0),
)


def config(*overrides: str) -> Config:
    """Defaults but for few resamples."""
    return load_config(None, ["evaluate.bootstrap=200", "fit.rows=all", "interventions.top=[0.3]", *overrides])


def small_drops(kind: str, saliency: str, place: int) -> tuple[float, float]:
    """Different for every method, and not of one sign."""
    return 0.1 * len(kind) / 8 + 0.03 * (place % 3) - 0.05, 0.02 * place - 0.03 * (saliency == "d_prime")


def results_table(
    concepts: Sequence[str] = CONCEPTS,
    sites: Sequence[str] = ("resid_post.1",),
    drops: Drops = small_drops,
    *,
    tops: Sequence[float] = (0.3,),
    base: float = 0.8,
    perplexity: Callable[[str, int], float] | None = lambda kind, place: 20.0 + len(kind) + place,
) -> pa.Table:
    """results.parquet with planted drops; 20 test rows a concept; intervals are the drop -+ 0.1."""
    rows = []
    for site, (place, concept), top, (kind, tau) in product(sites, enumerate(concepts), tops, _KINDS):
        for saliency in ("random",) if kind == "random_neurons" else ("mean_abs", "d_prime"):
            target, complement = drops(kind, saliency, place)
            width = "" if tau is None else f"-{tau:g}"
            row: dict[str, Any] = {
                "site": site,
                "concept": concept,
                "method": f"{kind}{width}/{saliency}/{top:g}/zero/all",
                "saliency": saliency,
                "top": top,
                "range": kind,
                "tau": tau,
                "neurons": 2,
                "operator": "zero",
                "positions": "all",
                "seed": 0,
                "n_target": 20,
                "n_complement": 20 * (len(concepts) - 1),
                "dose_target": 0.9,
                "dose_complement": 0.5,
                "perplexity": None if perplexity is None else perplexity(kind, place),
                "base_perplexity": None if perplexity is None else 20.0,
            }
            for group, drop in (("target", target), ("complement", complement)):
                for measure, size in (("accuracy", drop), ("confidence", drop / 2)):
                    name = f"{group}_{measure}"
                    for key, value in (
                        (name, base - size),
                        (f"base_{name}", base),
                        (f"{name}_drop", size),
                    ):
                        row[key] = value
                        if not key.startswith("base_"):
                            row[f"{key}_low"], row[f"{key}_high"] = value - 0.1, value + 0.1
            for name, size in (
                ("selectivity", target - complement),
                ("confidence_selectivity", (target - complement) / 2),
            ):
                row |= {name: size, f"{name}_low": size - 0.1, f"{name}_high": size + 0.1}
            rows.append(row)
    return pa.Table.from_pylist(rows)


def activations(concepts: Sequence[str], sites: Sequence[str], *, neurons: int = 8, rows: int = 12) -> Activations:
    """Normal activations; neuron k of a site is shifted on concept k. The last neuron is constant."""
    total = rows * len(concepts)
    generator = np.random.default_rng(0)
    values = {}
    for site in sites:
        drawn = generator.normal(size=(neurons, total)).astype(np.float32)
        for place in range(min(len(concepts), neurons)):
            drawn[place, place * rows : (place + 1) * rows] += 2
        drawn[-1] = 1
        values[Site.parse(site)] = drawn
    everyone = np.arange(total)
    return Activations(
        values,
        everyone,
        [concept for concept in concepts for _ in range(rows)],
        ["fit"] * total,
        everyone * 0,
        everyone * 0 + 5,
        list(concepts) * rows,
        np.ones(total, dtype=bool),
        np.ones(total, dtype=np.float32),
    )


def make_audit(
    folder: Path,
    settings: Config,
    results: pa.Table,
    *,
    name: str = "tiny",
    kind: str = "language_model",
    warnings: Sequence[str] = (),
) -> dict[str, Path]:
    """The artifacts that a report reads.

    Returns:
        Stage -> its folder.
    """
    concepts = list(dict.fromkeys(results["concept"].to_pylist()))
    sites = list(dict.fromkeys(results["site"].to_pylist()))
    inputs = {stage: folder / stage for stage in ("prepare", "extract", "fit", "evaluate")}
    for path in inputs.values():
        path.mkdir(parents=True)
    found = [fit_statistics(activations(concepts, [site]), site, rows="all") for site in sites]
    write_table(inputs["fit"] / "statistics.parquet", pa.concat_tables([statistics_table(one, 0) for one in found]))
    ranges = pa.concat_tables([ranges_table(sweep_ranges(one, settings)) for one in found])
    write_table(inputs["fit"] / "ranges.parquet", ranges)
    write_table(inputs["evaluate"] / "results.parquet", results)
    facts: dict[str, dict[str, Any]] = {
        "prepare": {
            "checkpoint": {"name": name, "fingerprint": "ab" * 32, "kind": kind, "model_type": "gpt2"},
            "dataset": {"name": f"{name}-data", "notes": [f"splits of {name} made from the data"]},
            "rows": {concept: {"fit": 12, "validation": 4, "test": 20} for concept in concepts},
            "labels": {concept: {"id": place, "text": f" {concept}"} for place, concept in enumerate(concepts)},
            "sites": sites,
        },
        "extract": {
            "prompt": "{text}\nTopic:",
            "pooling": "last",
            "cut_rows": 1,
            "sites": {site: f"transformer.h.{place}" for place, site in enumerate(sites)},
            "widths": dict.fromkeys(sites, 8),
        },
        "fit": {"rows": dict.fromkeys(concepts, 12), "warnings": list(warnings)},
        "evaluate": {
            "rows": 20 * len(concepts),
            "no_op_difference": 0.0,
            "suffix_difference": 0.0,
            "perplexity": True,
            "dtype": "float32",
            "device": "cpu",
        },
    }
    for stage, path in inputs.items():
        write_manifest(path, stage=stage, method=1, inputs={"dataset": "cd" * 32}, params={}, facts=facts[stage])
    return inputs
