"""The numbers and rows that other tools show: `dvc metrics diff`, `dvc plots`, experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuronlens.report.layers import joint_means
from neuronlens.report.table import KIND_NAMES, main_summaries

_PER_METHOD = (
    "target_accuracy_drop",
    "complement_accuracy_drop",
    "selectivity",
    "dose_target",
    "dose_complement",
    "perplexity_ratio",
)
_PLOTTED = ("site", "concept", "method", "kind", "range", "saliency", "top", "tau", "operator", "positions")
_DRAWN = (
    "target_accuracy_drop",
    "complement_accuracy_drop",
    "selectivity",
    "target_confidence_drop",
    "complement_confidence_drop",
)


def metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    """Flat name -> number, few enough to be read in a diff. What was not measured is left out.

    The main methods' numbers are those of the deepest site; `best/...` is the highest mean selectivity of all sites and settings, which
    chance favours the more of them there are. `joint/2/...` is of the edits of the two best sites together.
    """
    found: dict[str, float | None] = {"base/accuracy": audit["base"]["accuracy"]}
    found |= {f"base/accuracy/{row['concept']}": row["accuracy"] for row in audit["base"]["concepts"]}
    last = audit["sites"][-1]["site"]
    for row in main_summaries(audit):
        found["base/perplexity"] = row["base_perplexity"]
        if row["site"] == last:
            name = row["method"] if row["role"] == "chosen" else f"{row['kind']}/{row['saliency']}"
            found |= {f"{name}/{measured}": row[measured] for measured in _PER_METHOD}
    for kind in KIND_NAMES:
        own = [row["selectivity"] for row in audit["summary"] if row["kind"] == kind and row["selectivity"] is not None]
        found[f"best/{kind}/selectivity"] = max(own, default=None)
    for row in joint_means(audit):
        found |= {f"joint/{row['count']}/{measured}": row[measured] for measured in (*_PER_METHOD, "gain")}
    return {name: value for name, value in found.items() if value is not None}


def concept_metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    """The main methods' numbers at the deepest site, concept by concept: method/concept/measured -> number."""
    found: dict[str, float | None] = {}
    last = audit["sites"][-1]["site"]
    for row in main_summaries(audit):
        if row["site"] != last:
            continue
        name = row["method"] if row["role"] == "chosen" else f"{row['kind']}/{row['saliency']}"
        same = ("site", "method", "role")
        for own in audit["results"]:
            if all(own[key] == row[key] for key in same):
                found |= {f"{name}/{own['concept']}/{measured}": own.get(measured) for measured in _PER_METHOD}
    return {name: value for name, value in found.items() if value is not None}


def plot_rows(audit: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """File name -> rows with the columns that `dvc plots` can draw: every method by concept, and as means over concepts."""
    by_concept = [*_PLOTTED, *_DRAWN]
    return {
        "concepts": [{name: row[name] for name in by_concept} for row in audit["results"]],
        "methods": [
            {name: row[name] for name in (*by_concept, "perplexity_ratio") if name != "concept"}
            for row in audit["summary"]
        ],
    }
