"""The few rows that a terminal shows of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neuronlens.values import WIDTHS

Interval = tuple[float, float]
RANGES = ("gaussian", "full", "random_neurons")
# what the validation rows chose and what it is held against; the sweep's own rows stand beside it
CHOSEN = ("tuned", "tuned/random_ranges", "tuned/random_neurons")
_NAMED = {
    "gaussian": "range masking",
    "full": "whole neurons",
    "random_neurons": "random neurons",
    "random_ranges": "random ranges",
    "other_concept": "another concept's ranges",
    "tuned": "tuned ranges",
}
KIND_NAMES = {**_NAMED, **{kind: f"{kind} ranges" for kind in WIDTHS if kind not in _NAMED}, "leace": "linear erasure"}


def kind_of(row: Mapping[str, Any]) -> str:
    """What a row of results is called: its kind of range, unless it was tuned."""
    if row["role"] == "sweep":
        return str(row["range"])
    if row["role"] == "chosen":
        family, _, control = row["method"].partition("/")
        return str(control or {"paper": "gaussian", "whole": "full"}.get(family, family))
    return str(row["range"]) if row["range"] in ("random_neurons", "random_ranges", "other_concept") else "tuned"


@dataclass(frozen=True)
class ResultRow:
    """A method at a site, as means over concepts.

    Attributes:
        site, method, kind, saliency, top, tau, operator: which method; tau is None where whole neurons are masked, and all are None where
            concepts differ in what the validation rows chose for them.
        chosen: whether the validation rows chose it.
        target_drop, complement_drop: of accuracy, as shares.
        selectivity: target drop minus complement drop.
        dose_target, dose_complement: share of the looked-at activations that were changed.
        perplexity, base_perplexity: on ordinary text, with and without the edit; None where it was not measured.
        *_interval: 95 % over concepts; None with a single concept.
    """

    site: str
    method: str
    kind: str
    saliency: str | None
    top: float | None
    tau: float | None
    operator: str | None
    chosen: bool
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
    """Range masking, whole neurons and the random control of every setting that findings speak of, then what was tuned, site by site.

    Args:
        audit: audit.json.
    """
    return [_result_row(row) for row in main_summaries(audit)]


def main_summaries(audit: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows of `summary` behind `result_rows`, each once."""
    known = {_identity(row): row for row in audit["summary"]}
    for site in audit["sites"]:
        wanted = dict.fromkeys(key for setting in audit["settings"] for key in _methods(site["site"], setting))
        yield from (known[key] for key in (*wanted, *_extra(site["site"], known)) if key in known)


def is_main(row: Mapping[str, Any], audit: Mapping[str, Any]) -> bool:
    """Whether a row of `results` or `summary` is among those that findings speak of."""
    if row["role"] == "chosen":
        return row["method"] in CHOSEN
    return row["range"] == "leace" or any(_identity(row) in _methods(row["site"], part) for part in audit["settings"])


def _methods(site: str, setting: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    top, tau, operator, positions = (setting[name] for name in ("top", "tau", "operator", "positions"))
    return [
        (site, "sweep", kind, base, saliency, top, width, operator, positions)
        for kind, base, saliency, width in zip(
            RANGES,
            ("gaussian", "full", "full" if tau is None else "gaussian"),
            (setting["saliency"], setting["saliency"], "random"),
            (tau, None, tau),
            strict=True,
        )
    ]


def _extra(site: str, known: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """The tuned method and its controls in their order, then linear erasure."""
    own = {row["method"]: key for key, row in known.items() if row["site"] == site and row["role"] == "chosen"}
    yield from (own[name] for name in CHOSEN if name in own)
    yield from (key for key, row in known.items() if row["site"] == site and row["range"] == "leace")


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    if row["role"] == "chosen":
        return row["site"], "chosen", row["method"]
    names = ("site", "role", "range", "base", "saliency", "top", "tau", "operator", "positions")
    if row["role"] == "tuned" or row["range"] in ("leace", "discriminative"):
        return (*(row[name] for name in names), row["method"])
    return tuple(row[name] for name in names)


def _result_row(row: Mapping[str, Any]) -> ResultRow:
    return ResultRow(
        **{name: row[name] for name in ("site", "method", "kind", "saliency", "top", "tau", "operator")},
        chosen=row["role"] == "chosen",
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
