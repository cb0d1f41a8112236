"""The numbers and rows that other tools show: `dvc metrics diff`, `dvc plots`, experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuronlens.pages.text import visible
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
_DECIMALS, _DIGITS = 6, 5
_MEANS = ("site", "method", "kind", *_DRAWN, "perplexity_ratio")


def metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    """Flat name -> number, few enough to be read in a diff, and in digits that mean something (see `meant`). What was not measured is left
    out.

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
    return _known(found)


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
    return _known(found)


def meant(name: str, value: float) -> float:
    """A number without the digits that say nothing, so that a diff of runs that did the same shows nothing.

    Shares of rows keep 6 decimals, a row of a million. Perplexities and their ratios keep 5 significant digits: those of one audit in
    batches of 64 tokens and of 8,192 differ from the ninth on, as float32 adds up in another order.
    """
    return float(f"{value:.{_DIGITS}g}") if "perplexity" in name else round(value, _DECIMALS) + 0.0  # no negative zero


def _known(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: meant(name, value) for name, value in found.items() if value is not None}


def plot_rows(audit: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """File name -> rows with the columns that `dvc plots` can draw.

    `main`: the methods that findings speak of, site by site, as means over concepts, under short names. `edited`: what the tuned ranges do
    to each concept at the deepest site, or range masking where nothing is tuned. `accuracy`: the unedited model's, concept by concept.
    `concepts` and `methods`: every method by concept, and as means.
    """
    by_concept = [*_PLOTTED, *_DRAWN]
    main = [*main_summaries(audit)]
    return {
        "main": [{"name": _name(row, audit), **{key: row[key] for key in _MEANS}} for row in main],
        "edited": _edited(main, audit),
        "accuracy": [
            {"concept": _inert(row["concept"]), "accuracy": row["accuracy"]} for row in audit["base"]["concepts"]
        ],
        "concepts": [
            {name: row[name] for name in by_concept} | {"concept": _inert(row["concept"])} for row in audit["results"]
        ],
        "methods": [
            {name: row[name] for name in (*by_concept, "perplexity_ratio") if name != "concept"}
            for row in audit["summary"]
        ],
    }


def _name(row: Mapping[str, Any], audit: Mapping[str, Any]) -> str:
    """Of a main method among those of all sites, in the few letters that DVC's charts have room for."""
    if row["role"] == "chosen":
        what = row["method"]
    elif row["kind"] in ("gaussian", "full"):
        what = f"{'ranges' if row['kind'] == 'gaussian' else 'whole'}, {row['saliency']}"
    else:
        what = KIND_NAMES[row["kind"]]
    return str(what) if len(audit["sites"]) == 1 else f"{row['site']} {what}"


def _edited(main: Sequence[Mapping[str, Any]], audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    deepest = [row for row in main if row["site"] == audit["sites"][-1]["site"]]
    wanted = [row for kind in ("tuned", "gaussian", "full") for row in deepest if row["kind"] == kind]
    same = ("site", "method", "role")
    return [
        {"concept": _inert(row["concept"]), **{key: row[key] for key in _DRAWN}}
        for row in audit["results"]
        if wanted and all(row[key] == wanted[0][key] for key in same)
    ]


def _inert(concept: str) -> str:
    """A name from data for DVC's pages, which put it into a script as it is."""
    return visible(concept, 60).replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")
