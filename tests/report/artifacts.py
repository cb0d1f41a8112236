"""An audit made by hand: the artifacts of the four stages before the report, without any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuronlens.activations.store import Activations
from neuronlens.artifact import write_manifest, write_table
from neuronlens.config import Config
from neuronlens.evaluation.joint import COLUMNS as JOINT_COLUMNS
from neuronlens.evaluation.joint import SCHEMA as JOINT_SCHEMA
from neuronlens.evaluation.measure import MEASURED
from neuronlens.evaluation.questions import COLUMNS as QUESTION_COLUMNS
from neuronlens.params import load_config
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.ranges.tables import examples_table, overlap_table, ranges_table, statistics_table
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
    return load_config(
        None,
        [
            "evaluate.bootstrap=200",
            "fit.rows=all",
            "interventions.top=[0.3]",
            "interventions.tuned.top=0.5",
            *overrides,
        ],
    )


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
                "setting": f"{kind}{width}/{saliency}/{top:g}/zero/all",
                "role": "sweep",
                "saliency": saliency,
                "top": top,
                "range": kind,
                "base": "gaussian" if kind == "random_neurons" else kind,
                "tau": tau,
                "threshold": None,
                "gate": "none",
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
            ratio = None if row["perplexity"] is None else row["perplexity"] / 20
            row |= {"perplexity_ratio": ratio, "perplexity_ratio_low": ratio, "perplexity_ratio_high": ratio}
            rows.append(dict.fromkeys((*MEASURED, *QUESTION_COLUMNS)) | row)
    return pa.Table.from_pylist(rows, schema=_schema(rows[0]))


def chosen_table(
    results: pa.Table, names: Sequence[str] = ("tuned", "paper", "whole", "tuned/random_ranges")
) -> pa.Table:
    """chosen.parquet: of every concept its gaussian rows under other names, with another setting for each concept."""
    rows = [row for row in results.to_pylist() if (row["range"], row["tau"]) == ("gaussian", 2.0)]
    own = [row for row in rows if row["saliency"] == "mean_abs"]
    renamed = [
        {**row, "method": name, "role": "chosen", "setting": f"setting {place}", "top": (0.1, 0.2, 0.3)[place % 3]}
        for name in names
        for place, row in enumerate(own)
    ]
    return pa.Table.from_pylist(renamed, schema=results.schema)


def contrasts_table(site: str, mean: float, *, width: float = 0.05) -> pa.Table:
    """contrasts.parquet of a site, with one planted difference for everything."""
    against = (None, "tuned/random_ranges", "tuned/random_neurons", "paper", "whole")
    return pa.Table.from_pylist(
        [
            {
                "site": site,
                "method": "tuned",
                "against": other,
                "effect": effect,
                "concepts": 6,
                "mean": mean,
                "low": mean - width,
                "high": mean + width,
            }
            for other in against
            for effect in ("selectivity", "confidence_selectivity")
        ]
    )


def matched_table(site: str, gain: float, *, width: float = 0.05, reached: int = 3) -> pa.Table:
    """matched.parquet of a site, with one planted gain at the first drops; what lies beyond is not reached by the paper's method."""
    rows = []
    for measure, against, (place, level) in product(
        ("accuracy", "confidence"), ("paper", "whole"), enumerate((0.1, 0.25, 0.5, 0.75, 0.9))
    ):
        row: dict[str, Any] = {"site": site, "measure": measure, "against": against, "target_drop": level}
        row |= {"concepts": 6 * (place < reached), "method_reaches": 6, "other_reaches": 6 * (place < reached)}
        for name, sign in (("selectivity", 1), ("log_perplexity", -1)):
            ends = {"": gain, "_low": gain - width, "_high": gain + width}
            low, high = sorted((sign * ends["_low"], sign * ends["_high"]))
            known = place < reached
            row |= {name: sign * gain if known else None, f"{name}_low": low if known else None}
            row[f"{name}_high"] = high if known else None
        rows.append(row)
    return pa.Table.from_pylist(rows)


def joint_table(
    concepts: Sequence[str], sites: Sequence[str], gain: float, *, width: float = 0.05, p: float = 0.001
) -> pa.Table:
    """joint.parquet of the last two sites, the last being the best, with one planted gain; the means over concepts stand behind."""
    rows: list[dict[str, Any]] = []
    for concept in (*concepts, None):
        row: dict[str, Any] = dict.fromkeys(JOINT_COLUMNS) | {"concept": concept, "count": 2, "gain_p": p}
        row |= {"concepts": len(concepts) if concept is None else 1, "gain_p_adjusted": p}
        if concept is not None:
            row |= {"sites": list(sites[-2:]), "settings": ["shallow/setting", "deep/setting"], "best_site": sites[-1]}
            row |= {"n_target": 20, "n_complement": 20 * (len(concepts) - 1)}
        for name, value in (
            ("gain", gain),
            ("confidence_gain", gain / 2),
            ("selectivity", 0.5 + gain),
            ("target_accuracy_drop", 0.6 + gain),
            ("complement_accuracy_drop", 0.1),
            ("perplexity_ratio", 1.25),
            ("dose_target", 0.025),
        ):
            row |= {name: value, f"{name}_low": value - width, f"{name}_high": value + width}
        rows.append({name: row[name] for name in JOINT_COLUMNS})
    return pa.Table.from_pylist(rows, schema=JOINT_SCHEMA)


def _schema(row: dict[str, Any]) -> pa.Schema:
    """Text and whole numbers as they are; every other column holds numbers, also where all are missing."""
    kinds = {str: pa.string(), int: pa.int64()}
    return pa.schema([(name, kinds.get(type(value), pa.float64())) for name, value in row.items()])


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


def fit_tables(
    concepts: Sequence[str], sites: Sequence[str], settings: Config, *, neurons: int = 8, rows: int = 12
) -> dict[str, pa.Table]:
    """What the stage `fit` writes for `activations`: name of the file -> its table."""
    found = [
        fit_statistics(activations(concepts, [site], neurons=neurons, rows=rows), site, rows="all") for site in sites
    ]
    parts = {
        "statistics": [statistics_table(one, settings.fit.saliency) for one in found],
        "ranges": [ranges_table(sweep_ranges(one, settings)) for one in found],
        "overlap": [overlap_table(one) for one in found],
        "examples": [examples_table(one) for one in found],
    }
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


def make_audit(
    folder: Path,
    settings: Config,
    results: pa.Table,
    *,
    name: str = "tiny",
    kind: str = "language_model",
    warnings: Sequence[str] = (),
    gain: float | None = None,
    joint: float | None = None,
    fitted: Mapping[str, pa.Table] | None = None,
    rows: int = 12,
    texts: Sequence[str] = ("a row of text",),
    prompt: str = "{text}\nTopic:",
) -> dict[str, Path]:
    """The artifacts that a report reads.

    Args:
        gain: of the tuned method over everything it is compared with; nothing was tuned where it is None.
        joint: gain of what was edited at the last two sites together; nothing was where it is None.
        fitted: as `fit_tables` gives them, which makes them unless told otherwise.
        rows: fit rows of each concept.
        texts: of the rows, over and over.

    Returns:
        Stage -> its folder.
    """
    concepts = list(dict.fromkeys(results["concept"].to_pylist()))
    sites = list(dict.fromkeys(results["site"].to_pylist()))
    inputs = {stage: folder / stage for stage in ("prepare", "extract", "fit", "evaluate")}
    for path in inputs.values():
        path.mkdir(parents=True)
    for file, table in (fit_tables(concepts, sites, settings, rows=rows) if fitted is None else fitted).items():
        write_table(inputs["fit"] / f"{file}.parquet", table)
    total = rows * len(concepts)
    dataset = {
        "row": np.arange(total),
        "text": [texts[place % len(texts)] for place in range(total)],
        "concept": [concept for concept in concepts for _ in range(rows)],
        "split": ["fit"] * total,
    }
    write_table(inputs["prepare"] / "dataset.parquet", pa.table(dataset))
    write_table(inputs["evaluate"] / "results.parquet", results)
    if gain is not None:
        write_table(inputs["evaluate"] / "chosen.parquet", chosen_table(results))
        for name, table in (("contrasts", contrasts_table), ("matched", matched_table)):
            write_table(inputs["evaluate"] / f"{name}.parquet", pa.concat_tables([table(site, gain) for site in sites]))
    if joint is not None:
        write_table(inputs["evaluate"] / "joint.parquet", joint_table(concepts, sites, joint))
    facts: dict[str, dict[str, Any]] = {
        "prepare": {
            "checkpoint": {"name": name, "fingerprint": "ab" * 32, "kind": kind, "model_type": "gpt2"},
            "dataset": {"name": f"{name}-data", "notes": [f"splits of {name} made from the data"]},
            "rows": {concept: {"fit": rows, "validation": 4, "test": 20} for concept in concepts},
            "labels": {concept: {"id": place, "text": f" {concept}"} for place, concept in enumerate(concepts)},
            "sites": sites,
        },
        "extract": {
            "notes": [],
            "prompt": prompt,
            "pooling": "last",
            "cut_rows": 1,
            "sites": {site: f"transformer.h.{place}" for place, site in enumerate(sites)},
            "widths": dict.fromkeys(sites, 8),
        },
        "fit": {"rows": dict.fromkeys(concepts, rows), "warnings": list(warnings)},
        "evaluate": {
            "autoencoders": [],
            "rows": 20 * len(concepts),
            "no_op_difference": 0.0,
            "suffix_difference": 0.0,
            "suffix_tolerance": 1e-5,
            "perplexity": True,
            "dtype": "float32",
            "device": "cpu",
        },
    }
    for stage, path in inputs.items():
        write_manifest(path, stage=stage, method=1, inputs={"dataset": "cd" * 32}, params={}, facts=facts[stage])
    return inputs
