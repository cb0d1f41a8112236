"""audit.json: everything an audit found, for programs. The page, the summary and the metrics are drawn from this document alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuronlens.artifact import content_hash, finite, read_manifest, read_table
from neuronlens.config import SHARED, Config
from neuronlens.evaluation.summary import (
    Comparison,
    Setting,
    choose_settings,
    compare_with_random_neurons,
    compare_with_unedited,
    compare_with_whole_neuron,
    summarise,
)
from neuronlens.evaluation.uncertainty import wilson
from neuronlens.report.findings import CLAIMS, DECIDABLE_CONCEPTS, find
from neuronlens.report.finished import SCHEMA_VERSION
from neuronlens.report.layers import layers_of
from neuronlens.report.neurons.drawn import card_entry, most_selective
from neuronlens.report.sections.heatmaps import overlap_rows
from neuronlens.report.table import kind_of
from neuronlens.values import WIDTHS

SETTINGS_RULE = (
    "Neurons are ranked by mean |a| (reference) and by d' (contrastive), the top 30 % masked at mean ± 2 std, set to zero; where the sweep "
    "lacks a value, the nearest one stands in."
)
_PATHS = ("path", "sae", "auxiliary", "questions")
# candidates and controls by the hundred stay in results.parquet; `summary` has their means
_LISTED = (*WIDTHS, "random_neurons", "leace")

Rows = list[dict[str, Any]]


def audit_document(config: Config, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The document, as strict JSON: what is not finite or was not measured is None. It holds no path of a machine and no time.

    Args:
        inputs: folders of `prepare`, `extract`, `fit` and `evaluate`.
    """
    manifests = {name: read_manifest(folder) for name, folder in inputs.items()}
    facts = {name: manifest["facts"] for name, manifest in manifests.items()}
    table = read_table(inputs["evaluate"] / "results.parquet")
    settings = choose_settings(table)
    comparisons = {
        "unedited": compare_with_unedited(table, config.seed),
        "whole_neuron": compare_with_whole_neuron(table, config.seed),
        "random_neurons": compare_with_random_neurons(table, config.seed),
    }
    chosen, contrasts, matched, joint = (
        _optional(inputs["evaluate"] / f"{name}.parquet") for name in ("chosen", "contrasts", "matched", "joint")
    )
    results: Rows = table.to_pylist()
    listed = [row for row in results if row["role"] == "sweep" and row["range"] in _LISTED] + chosen
    base, summary = _base(results), summarise([*results, *chosen])
    document = {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": {
            **facts["prepare"]["checkpoint"],
            "dtype": facts["evaluate"]["dtype"],
            "device": facts["evaluate"]["device"],
            "revision": config.checkpoint.revision,
        },
        "dataset": {
            **facts["prepare"]["dataset"],
            "fingerprint": manifests["prepare"]["inputs"]["dataset"],
            "rows": facts["prepare"]["rows"],
            "labels": facts["prepare"]["labels"],
            "prompt": facts["extract"]["prompt"],
        },
        "preset": config.preset,
        "params": _without_paths(config.model_dump(mode="json", exclude={"gates", *SHARED})),
        "sites": [
            {"site": site, "module": facts["extract"]["sites"][site], "neurons": facts["extract"]["widths"][site]}
            for site in facts["prepare"]["sites"]
        ],
        "positions": {"fit": facts["extract"]["pooling"], "edit": config.interventions.positions},
        "base": base,
        "autoencoders": facts["evaluate"]["autoencoders"],
        "settings": [asdict(setting) for setting in settings],
        "settings_rule": SETTINGS_RULE,
        "claims": CLAIMS,
        "findings": [
            asdict(finding)
            for finding in find(settings, base, *comparisons.values(), contrasts=contrasts, matched=matched)
        ],
        "comparisons": {name: [_comparison(part) for part in parts] for name, parts in comparisons.items()},
        "contrasts": contrasts,
        "matched": matched,
        "overlap": overlap_rows(inputs["fit"], settings[0]) if settings else [],
        "layers": layers_of(summary, joint, facts["prepare"]["sites"]),
        "summary": [row | {"kind": kind_of(row)} for row in summary],
        "results": [row | {"kind": kind_of(row)} for row in listed],
        "neurons": [card_entry(card) for cards in _cards(inputs["fit"], settings).values() for card in cards],
        "trust": _trust(config, facts, results, joint),
        "artifacts": {name: _artifact(folder) for name, folder in inputs.items()},
        "versions": manifests["evaluate"]["versions"],
    }
    strict: dict[str, Any] = finite(document)
    return strict


def _artifact(folder: Path) -> dict[str, Any]:
    """Identity and size of what a stage wrote."""
    files = read_manifest(folder)["files"]
    return {"hash": content_hash(folder), "bytes": sum(file["bytes"] for file in files.values()), "files": len(files)}


def _optional(file: Path) -> Rows:
    """The rows of a table that not every audit has."""
    rows: Rows = read_table(file).to_pylist() if file.exists() else []
    return rows


def _base(results: Rows) -> dict[str, Any]:
    """Accuracy of the unedited model on the test rows, with Wilson intervals, and the share of the most frequent concept beside it."""
    concepts = []
    for row in sorted({row["concept"]: row for row in results}.values(), key=lambda row: str(row["concept"])):
        n, accuracy = row["n_target"], row["base_target_accuracy"]
        low, high = wilson(round(n * accuracy), n)
        concepts.append(
            {
                "concept": row["concept"],
                "n": n,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "confidence": row["base_target_confidence"],
            }
        )
    total = sum(row["n"] for row in concepts)
    right = sum(round(row["n"] * row["accuracy"]) for row in concepts)
    low, high = wilson(right, total)
    return {
        "n": total,
        "accuracy": right / total,
        "low": low,
        "high": high,
        "majority": max(row["n"] for row in concepts) / total,
        "concepts": concepts,
    }


def _cards(fit: Path, settings: Sequence[Setting]) -> dict[str, Any]:
    return most_selective(fit, settings[0].tau) if settings else {}


def _comparison(part: Comparison) -> dict[str, Any]:
    return {**asdict(part), "effects": {name: asdict(effect) for name, effect in part.effects.items()}}


def _trust(config: Config, facts: Mapping[str, Any], results: Rows, joint: Rows) -> dict[str, Any]:
    """What speaks for and against believing the rest."""
    available = {name: splits["fit"] for name, splits in facts["prepare"]["rows"].items()}
    used = facts["fit"]["rows"]
    return {
        "no_op_difference": facts["evaluate"]["no_op_difference"],
        "suffix_difference": facts["evaluate"]["suffix_difference"],
        "suffix_tolerance": facts["evaluate"]["suffix_tolerance"],
        "fit_rows": {
            name: {"available": available[name], "used": used[name], "dropped": available[name] - used[name]}
            for name in used
        },
        "test_rows": facts["evaluate"]["rows"],
        "cut_rows": facts["extract"]["cut_rows"],
        "warnings": [*facts["extract"]["notes"], *facts["fit"]["warnings"], *_undecidable(len(used))],
        "seed": config.seed,
        "resamples": config.evaluate.bootstrap,
        "not_looked_at": _not_looked_at(config, facts, results, joint),
    }


def _undecidable(concepts: int) -> list[str]:
    if concepts >= DECIDABLE_CONCEPTS:
        return []
    return [
        f"no mean over {concepts} concepts can be told from zero at 95 %, whatever it is; that takes {DECIDABLE_CONCEPTS} concepts"
    ]


def _not_looked_at(config: Config, facts: Mapping[str, Any], results: Rows, joint: Rows) -> list[str]:
    kinds = {row["range"] for row in results}
    told = [
        f"Sites other than {', '.join(facts['prepare']['sites'])}.",
        "Whether the rows of the sweep differ at a matched dose: they are compared at equal parameters.",
        "Other prompts, other seeds of the data split, and rows outside this data set.",
    ]
    if len(facts["prepare"]["sites"]) > 1 and not joint:
        told.append("Edits of several sites together.")
    if facts["prepare"]["checkpoint"]["kind"] == "classifier":
        told.append("Damage outside the task: a classifier has no perplexity.")
    elif not facts["evaluate"]["perplexity"]:
        told.append(
            "Damage outside the task: no ordinary text was given (evaluate.auxiliary), so there is no perplexity."
        )
    if "full" not in kinds:
        told.append("Whole-neuron masking, which the paper compares ranges with.")
    if config.interventions.tuned is None:
        told.append(
            "Methods at a matched target drop: nothing was tuned, and nothing was chosen on the validation rows."
        )
    told.append(
        "More than one draw of the random neurons."
        if "random_neurons" in kinds
        else "Random neurons as a control: an effect may be one that any neurons would have."
    )
    if config.fit.rows == "correct":
        told.append("Fit rows that the model gets wrong: ranges describe the rows it gets right.")
    return told


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(part) for key, part in value.items() if key not in _PATHS}
    return value
