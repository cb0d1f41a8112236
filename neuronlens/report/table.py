"""The few rows that a terminal shows of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]
RANGES = ("gaussian", "full", "random_neurons")
KIND_NAMES = {"gaussian": "range masking", "full": "whole neurons", "random_neurons": "random neurons"}


@dataclass(frozen=True)
class ResultRow:
    """A method at a site, as means over concepts.

    Attributes:
        site, method, range, saliency, top, tau, operator: which method; tau is None where whole neurons are masked.
        target_drop, complement_drop: of accuracy, as shares.
        selectivity: target drop minus complement drop.
        dose_target, dose_complement: share of the looked-at activations that were changed.
        perplexity, base_perplexity: on ordinary text, with and without the edit; None where it was not measured.
        *_interval: 95 % bootstrap over concepts; None with a single concept.
    """

    site: str
    method: str
    range: str
    saliency: str
    top: float
    tau: float | None
    operator: str
    target_drop: float
    target_drop_interval: Interval | None
    complement_drop: float
    complement_drop_interval: Interval | None
    selectivity: float
    selectivity_interval: Interval | None
    dose_target: float
    dose_complement: float
    perplexity: float | None
    base_perplexity: float | None


def result_rows(audit: Mapping[str, Any]) -> list[ResultRow]:
    """Range masking, whole neurons and the random control of every setting that findings speak of, site by site.

    Args:
        audit: audit.json.
    """
    return [_result_row(row) for row in main_summaries(audit)]


def main_summaries(audit: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows of `summary` behind `result_rows`, each once."""
    known = {_identity(row): row for row in audit["summary"]}
    for site in audit["sites"]:
        wanted = dict.fromkeys(key for setting in audit["settings"] for key in _methods(site["site"], setting))
        yield from (known[key] for key in wanted if key in known)


def is_main(row: Mapping[str, Any], audit: Mapping[str, Any]) -> bool:
    """Whether a row of `results` or `summary` belongs to a setting that findings speak of."""
    return any(_identity(row) in _methods(row["site"], setting) for setting in audit["settings"])


def _methods(site: str, setting: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    top, tau, operator, positions = (setting[name] for name in ("top", "tau", "operator", "positions"))
    return [
        (site, kind, saliency, top, width, operator, positions)
        for kind, saliency, width in zip(
            RANGES, (setting["saliency"], setting["saliency"], "random"), (tau, None, tau), strict=True
        )
    ]


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("site", "range", "saliency", "top", "tau", "operator", "positions"))


def _result_row(row: Mapping[str, Any]) -> ResultRow:
    return ResultRow(
        **{name: row[name] for name in ("site", "method", "range", "saliency", "top", "tau", "operator")},
        target_drop=row["target_accuracy_drop"],
        target_drop_interval=_interval(row, "target_accuracy_drop"),
        complement_drop=row["complement_accuracy_drop"],
        complement_drop_interval=_interval(row, "complement_accuracy_drop"),
        selectivity=row["selectivity"],
        selectivity_interval=_interval(row, "selectivity"),
        **{name: row[name] for name in ("dose_target", "dose_complement", "perplexity", "base_perplexity")},
    )


def _interval(row: Mapping[str, Any], name: str) -> Interval | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None or high is None else (low, high)
