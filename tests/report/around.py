"""What stands around an audit: judged gates, numbers of other audits, changes."""

from __future__ import annotations

from typing import Any

from neuronlens.report.context import Numbers


def gate(name: str, word: str, margin: float | None = 0.1, **given: Any) -> dict[str, Any]:
    """Judged, of selectivity between 0.4 and 0.6."""
    known = {"gate": name, "rule": "selectivity >= 0.3", "number": "selectivity", "verdict": word, "bound": 0.3}
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "previous": None, "margin": margin}
    return {**known, **numbers, "waived": None, "note": None, **given}


WAIVED = "labels are being corrected (until 2027-01-31)"


def change(quantity: str, value: float, *, concept: str | None = "sports", decided: bool = True, **given: Any) -> Any:
    """A row of comparison.json."""
    spread = abs(value) / 2 if decided else abs(value) * 2 + 0.01
    base = quantity.startswith("base")
    row = {"quantity": quantity, "concept": concept, "site": None if base else "resid_post.1", "before": 0.5, "n": 9}
    row |= {"method": None if base else "tuned", "role": None if base else "chosen", "after": 0.5 + value}
    row |= {"value": value, "low": value - spread, "high": value + spread, "p": 0.01, "adjusted": 0.01}
    return row | given


def numbers(name: str, value: float, **given: Any) -> Numbers:
    measured = {
        f"{kind}{end}": value + shift
        for kind in ("accuracy", "selectivity", "complement_drop")
        for end, shift in (("", 0.0), ("_low", -0.02), ("_high", 0.02))
    }
    return Numbers(name, measured, **given)
