"""The layers of an audit: how selective the tuned method is at each site alone, and at the best of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_LEVEL = 0.05
_SPREAD = (
    "target_accuracy_drop",
    "complement_accuracy_drop",
    "selectivity",
    "confidence_selectivity",
    "perplexity_ratio",
)
_MEANS = (
    "concepts",
    "dose_target",
    "dose_complement",
    *(f"{name}{end}" for name in _SPREAD for end in ("", "_low", "_high")),
)


def layers_of(summary: Sequence[Row], joint: Sequence[Row], sites: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The section `layers` of audit.json.

    Args:
        summary: means over concepts, as in audit.json.
        joint: rows of joint.parquet; none where nothing was edited together.
        sites: in their order.
    """
    tuned = {row["site"]: row for row in summary if (row["role"], row["method"]) == ("chosen", "tuned")}
    # with several numbers of sites a concept is told of several times, with the same best site
    best = {row["concept"]: row["best_site"] for row in joint if row["concept"] is not None}
    alone = [
        {
            "site": site,
            **{name: tuned[site][name] for name in _MEANS},
            "best_of": [*best.values()].count(site) if best else None,
        }
        for site in sites
        if site in tuned
    ]
    return {"sites": alone, "joint": [{**row, "verdict": _verdict(row)} for row in joint]}


def _verdict(row: Row) -> str:
    """Whether a joint edit is more selective than the best site's alone, by interval and corrected test."""
    if row["gain"] is None or row["gain_p_adjusted"] > _LEVEL:
        return "not decided"
    return "better" if row["gain_low"] > 0 else "worse" if row["gain_high"] < 0 else "not decided"


def joint_means(audit: Row) -> list[Row]:
    """The means over concepts of what was edited together, by number of sites."""
    return [row for row in audit["layers"]["joint"] if row["concept"] is None]


def joint_concepts(audit: Row) -> list[Row]:
    """What was edited together, concept by concept."""
    return [row for row in audit["layers"]["joint"] if row["concept"] is not None]
