"""The page of a comparison: what changed, how far neurons moved, what became of the ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuronlens.comparison.drift import STATES
from neuronlens.comparison.rankings import PERSISTENCE
from neuronlens.pages.environment import page
from neuronlens.pages.figures.densities import gaussians
from neuronlens.report.findings import SALIENCY_WORDS

WORDS: Mapping[str, str] = {
    "base_accuracy": "accuracy, unedited",
    "base_confidence": "confidence, unedited",
    "base_log_perplexity": "log perplexity, unedited",
    "selectivity": "selectivity",
    "confidence_selectivity": "selectivity of confidence",
    "target_accuracy_drop": "drop of accuracy on the concept",
    "complement_accuracy_drop": "drop of accuracy on the others",
    "target_confidence_drop": "drop of confidence on the concept",
    "complement_confidence_drop": "drop of confidence on the others",
    "log_perplexity_ratio": "rise of log perplexity",
}
_DRAWN = 12


_FAMILIES = {"tuned": "tuned ranges", "paper": "the paper's ranges", "whole": "whole neurons"}
_MAIN = ("selectivity", "target_accuracy_drop", "complement_accuracy_drop", "log_perplexity_ratio")


def words(change: Mapping[str, Any]) -> str:
    """What a change is of."""
    told = WORDS.get(change["quantity"], change["quantity"])
    return told if change["method"] is None else f"{_FAMILIES.get(change['method'], change['method'])}: {told}"


def html(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison.json."""
    changes = [
        change | {"words": words(change), "percent": "perplexity" not in change["quantity"]}
        for change in comparison["changes"]
    ]
    known = {_key(row): row for row in comparison["rankings"]}
    ranges = []
    for row in comparison["ranges"]:
        ranking = known.get(_key(row))
        shared = None if ranking is None else ranking["jaccard"].get(f"{row['top']:g}")
        ranges.append(row | {"jaccard": shared, "overlap": None if ranking is None else ranking["rank_biased_overlap"]})
    families = {name: place for place, name in enumerate((None, *_FAMILIES))}
    overall = [
        change
        for change in changes
        if change["concept"] is None
        and change["method"] in families
        and (change["method"] is None or change["quantity"] in _MAIN)
    ]
    single = [change for change in changes if change["concept"] is not None and change["method"] in families]
    decided = [change for change in single if _decided(change)]
    return page(
        "comparison.html",
        {
            "comparison": comparison,
            "before": comparison["audits"][0],
            "after": comparison["audits"][1],
            "overall": sorted(overall, key=lambda change: families[change["method"]]),
            "decided": decided,
            "undecided": len(single) - len(decided),
            "panels": [
                {
                    "row": row,
                    "figure": gaussians((row["mean_before"], row["std_before"]), (row["mean_after"], row["std_after"])),
                }
                for row in sorted(comparison["farthest"], key=lambda row: -row["wasserstein"])[:_DRAWN]
            ],
            "ranges": ranges,
            "states": [state for state in STATES if any(state in row for row in ranges)],
            "persistence": PERSISTENCE,
            "saliency_words": SALIENCY_WORDS,
        },
    )


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["site"], row["concept"], row["saliency"]


def _decided(change: Mapping[str, Any]) -> bool:
    return change["adjusted"] <= 0.05 and not change["low"] <= 0 <= change["high"]
