"""What changed between two checkpoints, as pages and terminals tell it: in words, which way is better, and what is more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.changes import slopes

Row = Mapping[str, Any]
Tone = Literal["improved", "worsened", "noise"]

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
FAMILIES: Mapping[str, str] = {"tuned": "tuned ranges", "paper": "the paper's ranges", "whole": "whole neurons"}
TONE_MARKS: Mapping[Tone, str] = {"improved": "▲", "worsened": "▼", "noise": "●"}
# effects that are counted, and which way is better; what a method takes from its target is part of its selectivity
_BETTER: Mapping[str, int] = {
    "base_accuracy": 1,
    "base_confidence": 1,
    "base_log_perplexity": -1,
    "selectivity": 1,
    "complement_accuracy_drop": -1,
    "log_perplexity_ratio": -1,
}
_LEVEL = 0.05
DRAWN = 6


@dataclass(frozen=True)
class Effect:
    """A change that is shown: what of, where, and whether it is one for the better."""

    row: Row
    words: str
    tone: Tone

    @property
    def mark(self) -> str:
        """Its shape."""
        return TONE_MARKS[self.tone]


@dataclass(frozen=True)
class Changed:
    """What changed since the audit before.

    Attributes:
        counts: `improved`, `worsened`, `noise` -> how many effects.
        total: of all that were tested.
        drawn: the largest effects in points, in order of size, those beyond noise first.
        figure: of those as slopes; None where there is none.
        text: what became of the unedited model's perplexity on ordinary text; None where it was not measured.
        identical: whether both models did the same to the last bit.
    """

    counts: Mapping[Tone, int]
    total: int
    drawn: Sequence[Effect]
    figure: Figure | None
    text: Effect | None
    identical: bool


def words(change: Row) -> str:
    """What a change is of."""
    told = WORDS.get(change["quantity"], change["quantity"])
    return told if change["method"] is None else f"{FAMILIES.get(change['method'], change['method'])}: {told}"


def is_decided(change: Row) -> bool:
    """Whether a change is clear of zero by its interval, where it has one, and by the corrected test."""
    low, high = change["low"], change["high"]
    clear = low is not None and high is not None and not low <= 0 <= high
    return bool(clear and change["adjusted"] <= _LEVEL)


def tone(change: Row) -> Tone:
    """Whether a change is one for the better, for the worse, or within noise."""
    if not is_decided(change):
        return "noise"
    return "improved" if change["value"] * _BETTER[change["quantity"]] > 0 else "worsened"


def changed(comparison: Row) -> Changed:
    """What changed, from comparison.json: the unedited model and the tuned method (the paper's where nothing was tuned), concept by
    concept; perplexity of ordinary text over all of it.
    """
    methods = {change["method"] for change in comparison["changes"]}
    main = next((name for name in FAMILIES if name in methods), None)
    counted = [
        change
        for change in comparison["changes"]
        if change["quantity"] in _BETTER
        and change["method"] in (None, main)
        and (change["concept"] is not None or change["quantity"] == "base_log_perplexity")
    ]
    tones = [tone(change) for change in counted]
    several = len(comparison["sites"]) > 1
    shares = [change for change in counted if "perplexity" not in change["quantity"]]
    drawn = [
        Effect(change, _named(change, several=several), tone(change))
        for change in sorted(shares, key=lambda change: (not is_decided(change), -abs(change["value"])))[:DRAWN]
    ]
    rows = [{"before": 100 * part.row["before"], "after": 100 * part.row["after"], "tone": part.tone} for part in drawn]
    text = next((change for change in counted if change["quantity"] == "base_log_perplexity"), None)
    return Changed(
        {kind: tones.count(kind) for kind in TONE_MARKS},
        len(counted),
        drawn,
        slopes(rows) if rows else None,
        None if text is None else Effect(text, "perplexity of ordinary text", tone(text)),
        bool(comparison["identical"]),
    )


def _named(change: Row, *, several: bool) -> str:
    """Short, for a list beside a chart."""
    told = {"base_accuracy": "accuracy", "base_confidence": "confidence"}.get(change["quantity"], words(change))
    return f"{told} at {change['site']}" if several and change["site"] else told
