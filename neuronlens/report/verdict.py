"""The verdict on a checkpoint: what its gates say together, in a word and a sentence with the number that decides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neuronlens.pages.text import MINUS, NOT_MEASURED, significant
from neuronlens.rules import Rule

Word = Literal["PASS", "FAIL", "NOT DECIDED"]
Row = Mapping[str, Any]

MARKS: Mapping[str, str] = {"PASS": "✔", "FAIL": "✖", "NOT DECIDED": "○", "NOT APPLICABLE": NOT_MEASURED}
TONES: Mapping[str, Literal["good", "bad", "open"]] = {
    "PASS": "good",
    "FAIL": "bad",
    "NOT DECIDED": "open",
    "NOT APPLICABLE": "open",
}
_ORDER: tuple[Word, ...] = ("FAIL", "NOT DECIDED", "PASS")
_WAIVED = re.compile(r"(?P<reason>.*) \(until (?P<until>\d{4}-\d\d-\d\d)\)", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """On a checkpoint.

    Attributes:
        word: FAIL where a gate failed that is not waived, NOT DECIDED where one is not decided or none counts, else PASS.
        sentence: why, with the number that decides.
        number: that number with its interval and the threshold alone; empty where there is none.
    """

    word: Word
    sentence: str
    number: str = ""

    @property
    def mark(self) -> str:
        """Its shape."""
        return MARKS[self.word]

    @property
    def tone(self) -> str:
        """Its colour."""
        return TONES[self.word]


def verdict(gates: Sequence[Row] | None) -> Verdict:
    """What gates say together.

    Args:
        gates: see `neuronlens.report.context.Context`; None where nobody has judged.
    """
    if gates is None:
        return Verdict(
            "NOT DECIDED", "No gates were judged on this page: neuronlens report AUDIT writes one on which they are."
        )
    if not gates:
        return Verdict("NOT DECIDED", "No gates are named: write some below gates: in params.yaml.")
    word, counted = word_of(gates), _counted(gates)
    deciding = [gate for gate in counted if gate["verdict"] == word]
    waived = [gate for gate in gates if gate["waived"] is not None]
    apart = [
        *([_times(len(waived), "failure is waived.", "failures are waived.")] if waived else []),
        *(
            [_times(n, "gate does not apply.", "gates do not apply.")]
            if (n := len(gates) - len(counted) - len(waived))
            else []
        ),
    ]
    if not counted:
        why = [] if waived else ["There is no audit before this one."]
        return Verdict(word, " ".join(["No gate counts:", *apart, *why]))
    worst = min(deciding, key=_ease)
    said = {
        "FAIL": f"{_of(deciding, gates)} {'fails' if len(deciding) == 1 else 'fail'}",
        "NOT DECIDED": f"{_of(deciding, gates)} {'is' if len(deciding) == 1 else 'are'} not decided",
        "PASS": f"{'The only gate passes' if len(gates) == 1 else f'{_of(deciding, gates)} pass'}",
    }[word]
    number = _number(worst)
    which = {"PASS": ", the closest"}.get(word, ", the worst") if len(deciding) > 1 else ""
    named = number or f"{worst['gate']}, {worst['note'] or 'which has no number'}"
    return Verdict(word, " ".join([f"{said}{which}: {named}.", *apart]), number)


def word_of(gates: Sequence[Row]) -> Word:
    """Their verdicts together, in a word; what the command line exits with says the same.

    A gate on a change does not apply to the first of a line. Where nothing else counts nobody has looked at any number, which is no PASS; a
    failure that somebody has waived was looked at.
    """
    found = {gate["verdict"] for gate in _counted(gates)}
    nothing: Word = "PASS" if any(gate["waived"] is not None for gate in gates) else "NOT DECIDED"
    return next((word for word in _ORDER if word in found), nothing)


def _counted(gates: Sequence[Row]) -> list[Row]:
    return [gate for gate in gates if gate["waived"] is None and gate["verdict"] != "NOT APPLICABLE"]


def in_words(gate: Row) -> str:
    """A gate's own verdict; of one that is waived also until when, and why."""
    if gate["waived"] is None:
        return "does not apply" if gate["verdict"] == "NOT APPLICABLE" else str(gate["verdict"])
    found = _WAIVED.fullmatch(gate["waived"])
    why = gate["waived"] if found is None else f"{found['until']}: {found['reason']}"
    return f"{gate['verdict']} (waived until {why})"


def threshold(rule: str) -> str:
    """Of a rule, such as `≥ 0.3`."""
    parsed = Rule.parse(rule)
    return f"{parsed.op.replace('<=', '≤').replace('>=', '≥')} {parsed.bound:g}".replace("-", MINUS)


def interval(low: float | None, high: float | None) -> str:
    """In brackets, in the numbers that rules are written in; an end that is None is infinite."""
    return f"[{f'{MINUS}∞' if low is None else significant(low)}, {'∞' if high is None else significant(high)}]"


def _number(gate: Row) -> str:
    if gate["value"] is None:
        return ""
    between = interval(gate["low"], gate["high"])
    change = Rule.parse(gate["rule"]).of
    name = f"{gate['number']} {change}" if change else gate["number"]
    return f"{name} {significant(gate['value'])} {between}, asked for {threshold(gate['rule'])}"


def _ease(gate: Row) -> float:
    """How far inside its threshold a gate lies, in half widths of its interval; -inf where it has no number."""
    margin, low, high = gate["margin"], gate["low"], gate["high"]
    if margin is None or low is None or high is None:
        return -math.inf
    return float(margin) / ((high - low) / 2) if high > low else math.copysign(math.inf, margin) if margin else 0.0


def _of(some: Sequence[Row], gates: Sequence[Row]) -> str:
    if len(some) == len(gates) > 1:
        return f"All {len(gates)} gates"
    return f"{len(some)} of {len(gates)} gates" if len(gates) > 1 else "The only gate"


def _times(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
