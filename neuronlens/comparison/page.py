"""The page of a comparison: the verdict where gates were judged, what changed, how far neurons moved, what became of the ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from neuronlens.comparison.drift import STATES
from neuronlens.comparison.rankings import PERSISTENCE
from neuronlens.pages.environment import page
from neuronlens.pages.text import NOT_MEASURED, count, significant
from neuronlens.report.context import Context
from neuronlens.report.findings import SALIENCY_WORDS
from neuronlens.report.sections.changes import FAMILIES, is_decided, words
from neuronlens.report.sections.decision import Trust, decision
from neuronlens.report.sections.movement import movement

Row = Mapping[str, Any]

_MAIN = ("selectivity", "target_accuracy_drop", "complement_accuracy_drop", "log_perplexity_ratio")
_SHORT = 12  # hex digits of a fingerprint


def html(comparison: Row, context: Context | None = None) -> str:
    """The page of a comparison.json.

    Args:
        context: of the second audit; None where nobody has judged it, and the page says so.
    """
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
    families = {name: place for place, name in enumerate((None, *FAMILIES))}
    overall = [
        change
        for change in changes
        if change["concept"] is None
        and change["method"] in families
        and (change["method"] is None or change["quantity"] in _MAIN)
    ]
    single = [change for change in changes if change["concept"] is not None and change["method"] in families]
    decided = [change for change in single if is_decided(change)]
    before, after = comparison["audits"]
    return page(
        "comparison.html",
        {
            "comparison": comparison,
            "before": before,
            "after": after,
            "decision": decision(_trust(comparison), context, comparison),
            "trust_link": None if context is None else context.links.audit,
            "overall": sorted(overall, key=lambda change: families[change["method"]]),
            "decided": decided,
            "undecided": len(single) - len(decided),
            "moved": movement(comparison),
            "since": before["checkpoint"]["name"],
            "ranges": ranges,
            "states": [state for state in STATES if any(state in row for row in ranges)],
            "persistence": PERSISTENCE,
            "saliency_words": SALIENCY_WORDS,
            "infinite": math.inf,
        },
    )


def _trust(comparison: Row) -> list[Trust]:
    """What the trust box says of the two audits."""
    audits = comparison["audits"]
    no_op = [audit["trust"]["no_op_difference"] for audit in audits]
    paired = [
        change["n"]
        for change in comparison["changes"]
        if (change["quantity"], change["concept"]) == ("base_accuracy", None)
    ]
    return [
        Trust(
            "no-op edit",
            f"largest change of a logit {_both([significant(value) for value in no_op])} (must be 0)",
            any(no_op),
        ),
        Trust("rows", f"{count(max(paired, default=0), 'test row')}, the same in both, paired row by row"),
        Trust("not looked at", f"sites other than {', '.join(comparison['sites'])}; rows outside this data set"),
        Trust(
            "run",
            f"seed {comparison['seed']}, {_both([audit['trust']['dtype'] + ' on ' + audit['trust']['device'] for audit in audits])}",
        ),
        Trust(
            "versions",
            ", ".join(
                f"{name} {_both([str(audit['trust']['versions'].get(name, NOT_MEASURED)) for audit in audits])}"
                for name in ("neuronlens", "torch", "transformers")
            ),
        ),
        Trust("fingerprints", _both([audit["checkpoint"]["fingerprint"][:_SHORT] for audit in audits])),
    ]


def _both(told: Sequence[str]) -> str:
    """What both audits say, once where they say the same."""
    return " → ".join(dict.fromkeys(told))


def _key(row: Row) -> tuple[str, str, str]:
    return row["site"], row["concept"], row["saliency"]
