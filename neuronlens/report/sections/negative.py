"""What could not be shown, and how large an effect would have had to be to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from neuronlens.evaluation.uncertainty import LEVEL

Row = Mapping[str, Any]

POWER = 0.8
_NORMAL = NormalDist()
_CLAIMED = {  # claim -> the effect of its comparison that decides it
    "effect": "target_accuracy_drop",
    "spares": "complement_accuracy_drop",
    "confidence": "complement_confidence_drop",
    "text": "log_perplexity",
    "selective": "selectivity",
    "control": "selectivity",
}


@dataclass(frozen=True)
class Negative:
    """A claim that the data do not bear out, or an effect that they do not show.

    Attributes:
        claim: key of the document's `claims`, or `concept` for the tuned edit of one concept.
        verdict: `not decided` or `contradicted`.
        setting, site, concept: of what; None where it is of no one.
        value, low, high: measured, with its 95 % interval; None where there is none.
        logarithm: whether they are of the perplexity's logarithm, and not shares.
        detectable: the smallest effect that would have been found in 4 of 5 repetitions; None without an interval.
    """

    claim: str
    verdict: str
    setting: str | None
    site: str | None
    concept: str | None
    value: float | None
    low: float | None
    high: float | None
    logarithm: bool
    detectable: float | None


def minimum_detectable(low: float, high: float) -> float:
    """The smallest true effect that repetitions with an interval as wide would find in `POWER` of the cases.

    An effect is found where its interval is clear of zero, so it has to lie z((1 + LEVEL) / 2) + z(POWER) standard
    errors from it (Bloom 1995).

    Args:
        low, high: ends of the interval.
    """
    critical = _NORMAL.inv_cdf((1 + LEVEL) / 2)
    return (high - low) / 2 * (critical + _NORMAL.inv_cdf(POWER)) / critical


def negatives(audit: Row) -> list[Negative]:
    """Every claim that is not decided or contradicted, in their order, then the concepts on which a tuned edit shows no drop."""
    return [*_claims(audit), *_concepts(audit)]


def _claims(audit: Row) -> Iterator[Negative]:
    for finding in audit["findings"]:
        if finding["verdict"] != "holds":
            numbers, logarithm = _deciding(finding)
            yield _negative(
                finding["claim"],
                finding["verdict"],
                finding["setting"],
                finding["site"],
                None,
                numbers,
                logarithm=logarithm,
            )


def _deciding(finding: Row) -> tuple[tuple[float | None, float | None, float | None], bool]:
    """Value and interval that decide a finding, and whether they are logarithms."""
    numbers, claim = finding["numbers"], finding["claim"]
    if claim in _CLAIMED:
        effect = numbers[_CLAIMED[claim]]
        return (effect["mean"], effect["low"], effect["high"]), claim == "text"
    if "levels" in numbers:  # one number for each target drop: the one that is known best
        name = "log_perplexity" if claim == "tuned_text" else "selectivity"
        known = [row for row in numbers["levels"] if row[name] is not None]
        best = min(known, key=lambda row: row[f"{name}_high"] - row[f"{name}_low"])
        return (best[name], best[f"{name}_low"], best[f"{name}_high"]), claim == "tuned_text"
    return (numbers.get("mean", numbers.get("accuracy")), numbers["low"], numbers["high"]), False


def _concepts(audit: Row) -> Iterator[Negative]:
    for row in audit["results"]:
        if (row["role"], row["method"]) != ("chosen", "tuned"):
            continue
        name = "target_accuracy_drop"
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        if low is not None and high is not None and low <= 0 <= high:
            yield _negative(
                "concept", "not decided", None, row["site"], row["concept"], (value, low, high), logarithm=False
            )


def _negative(
    claim: str,
    verdict: str,
    setting: str | None,
    site: str | None,
    concept: str | None,
    numbers: tuple[float | None, float | None, float | None],
    *,
    logarithm: bool,
) -> Negative:
    value, low, high = numbers
    detectable = None if low is None or high is None else minimum_detectable(low, high)
    return Negative(claim, verdict, setting, site, concept, value, low, high, logarithm, detectable)
