"""Gates: named inequalities over the numbers of an audit and of its comparison with the one before it, judged by intervals.

    selectivity.sports >= 0.3
    selectivity.* >= 0.1
    base_accuracy drop <= 0.02
    drift.max_wasserstein <= 0.5

A gate passes where the whole interval of its number fulfils it, fails where none of it does, and is not decided otherwise: a number that
rows drawn anew would carry across the line is no reason to stop a release, and none to wave it through. A gate over several numbers (`*`)
holds for each of them; its intervals are widened so that all of them together are wrong in 1 of 20 cases at most (Bonferroni).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from neuronlens.artifact import finite
from neuronlens.config import GateParams
from neuronlens.errors import ConfigError, did_you_mean
from neuronlens.report.verdict import Word, word_of
from neuronlens.rules import Rule, Verdict, as_written

_EXIT_CODES: Mapping[Word, int] = {"PASS": 0, "FAIL": 1, "NOT DECIDED": 4}


@dataclass(frozen=True)
class Number:
    """A measured number with its 95 % interval."""

    value: float
    low: float
    high: float

    def widened(self, tests: int) -> Number:
        """With an interval that is one of so many, all of which hold together in 19 of 20 cases (Bonferroni, on the normal scale)."""
        from statistics import NormalDist

        normal = NormalDist()
        factor = normal.inv_cdf(1 - 0.025 / tests) / normal.inv_cdf(0.975)
        return Number(
            self.value, self.value - (self.value - self.low) * factor, self.value + (self.high - self.value) * factor
        )

    def turned(self) -> Number:
        """Of the opposite sign."""
        return Number(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class Judged:
    """A gate, judged.

    Attributes:
        gate: its name.
        rule: in words.
        number: name of the number that decided: the worst of several.
        value, low, high: of that number; None where it was not measured.
        verdict: PASS, FAIL, NOT DECIDED, or NOT APPLICABLE of a change for the first of a line.
        waived: why a FAIL does not count, None where it does.
        note: why nothing was decided, where that is not the interval.
    """

    gate: str
    rule: str
    number: str | None
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    waived: str | None = None
    note: str | None = None


def judge_gates(
    gates: Mapping[str, GateParams],
    audit: Mapping[str, Any],
    comparison: Mapping[str, Any] | None = None,
    *,
    first: bool = False,
    today: date | None = None,
) -> list[Judged]:
    """Judge gates on an audit.

    Args:
        gates: name -> rule and waiver.
        audit: audit.json.
        comparison: comparison.json with the audit before it; None where there is none, and no gate on a change is decided. Its `changes`
            may be replaced by the rows of changes.parquet, for gates on other methods than those that were chosen.
        first: nothing came before it, and gates on changes do not apply.
        today: that waivers are held against; the day itself unless told otherwise.

    Raises:
        ConfigError: a gate names no known number.
    """
    return [
        judge_gate(name, gate, audit, comparison, first=first, today=today or date.today())
        for name, gate in gates.items()
    ]


def judge_gate(
    name: str,
    gate: GateParams,
    audit: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    *,
    first: bool,
    today: date,
) -> Judged:
    """Judge one.

    Raises:
        ConfigError: it names no known number.
    """
    rule = Rule.parse(gate.rule)
    if rule.of is not None or rule.name.split(".")[0] in _COMPARED:
        if comparison is None:
            verdict: Verdict = "NOT APPLICABLE" if first else "NOT DECIDED"
            note = "there is no audit before this one" if first else "no audit before this one is named"
            return Judged(name, gate.rule, None, None, None, None, verdict, note=note)
        known = comparison_numbers(comparison, rule.of, gate)
    else:
        known = audit_numbers(audit, gate)
    matching = {key: number for key, number in known.items() if fnmatch.fnmatchcase(key, rule.name)}
    if not matching:
        raise ConfigError(
            f"gates.{name}: {rule.name!r} is no number of {'this comparison' if rule.of else 'this audit'}{_asked(gate)}",
            cure=did_you_mean(rule.name, sorted(map(as_written, known))),
        )
    judged = []
    for key, number in matching.items():
        if number is None:
            judged.append(Judged(name, gate.rule, key, None, None, None, "NOT DECIDED", note=_unmeasured(key, audit)))
            continue
        wide = number.widened(len(matching))
        judged.append(Judged(name, gate.rule, key, wide.value, wide.low, wide.high, rule.judge(wide.low, wide.high)))
    return _waived(_worst(judged, rule), gate, today)


def _unmeasured(number: str, audit: Mapping[str, Any]) -> str:
    if "perplexity" in number and audit["checkpoint"]["kind"] == "classifier":
        return "a classifier has no perplexity, and no need of this gate"
    return "it was not measured"


def exit_code(judged: Sequence[Judged]) -> int:
    """0 where the page's verdict is PASS, 1 where it is FAIL, 4 where it is NOT DECIDED."""
    return _EXIT_CODES[word_of([asdict(gate) for gate in judged])]


def beside(
    judged: Sequence[Mapping[str, Any]],
    gates: Mapping[str, GateParams],
    before: Mapping[str, Any] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Judged gates with what stands beside them on a page.

    `bound` is the threshold; `margin` how far the worse end of the interval lies inside it, negative outside, None without an interval;
    `previous` what the number was at the audit before: as its gate was judged then, or else as that audit's own numbers say.

    Args:
        judged: fields of `Judged`. Limits that are infinite become None.
        gates: name -> parameters, as far as they are known.
        before: audit.json of the audit before.
        earlier: its gates, as they were judged.
    """
    known = {(gate["gate"], gate["rule"], gate["number"]): gate["value"] for gate in earlier}
    found = []
    for gate in judged:
        rule = Rule.parse(gate["rule"])
        key = gate["gate"], gate["rule"], gate["number"]
        previous = known.get(key)
        if previous is None and before is not None and rule.of is None and rule.name.split(".")[0] not in _COMPARED:
            params = gates.get(gate["gate"])
            number = audit_numbers(before, params if params and params.rule == gate["rule"] else None).get(
                gate["number"]
            )
            previous = None if number is None else number.value
        worse = gate["high"] if rule.op.startswith("<") else gate["low"]
        margin = None if worse is None else rule.bound - worse if rule.op.startswith("<") else worse - rule.bound
        found.append({**finite(gate), "bound": rule.bound, "margin": finite(margin), "previous": previous})
    return found


def holds_still(judged: Sequence[Mapping[str, Any]], gates: Mapping[str, GateParams], audit: Mapping[str, Any]) -> bool:
    """Whether an audit still has the numbers that its gates were judged on: those that are the audit's own."""
    for gate in judged:
        rule, params = Rule.parse(gate["rule"]), gates.get(gate["gate"])
        if gate["value"] is None or rule.of is not None or rule.name.split(".")[0] in _COMPARED:
            continue
        if params is not None and params.rule != gate["rule"]:
            params = None
        number = audit_numbers(audit, params).get(gate["number"])
        if number is None or number.value != gate["value"]:
            return False
    return True


_COMPARED = ("drift", "ranges", "rankings")
_MEASURED = (
    *("selectivity", "confidence_selectivity"),
    *("target_accuracy_drop", "complement_accuracy_drop", "target_confidence_drop", "complement_confidence_drop"),
    "perplexity_ratio",
)


def audit_numbers(audit: Mapping[str, Any], gate: GateParams | None = None) -> dict[str, Number | None]:
    """Name -> number of an audit.

    `base_accuracy`, with `.CONCEPT` for one concept; the measured columns of one method at one site, over all concepts and per concept.
    That is the tuned method at the deepest site, or the sweep's first where nothing was tuned, unless the gate names another.
    """
    base = audit["base"]
    found: dict[str, Number | None] = {"base_accuracy": Number(base["accuracy"], base["low"], base["high"])}
    for row in base["concepts"]:
        found[f"base_accuracy.{row['concept']}"] = Number(row["accuracy"], row["low"], row["high"])
    site = (gate and gate.site) or audit["sites"][-1]["site"]
    tuned = any(row["role"] == "chosen" for row in audit["summary"])
    method = (gate and gate.method) or ("tuned" if tuned else audit["summary"][0]["method"])
    for row in audit["summary"]:
        if (row["site"], row["method"]) == (site, method):
            found |= {name: _number(row, name) for name in _MEASURED}
    for row in audit["results"]:
        if (row["site"], row["method"]) == (site, method):
            found |= {f"{name}.{row['concept']}": _number(row, name) for name in _MEASURED}
    return found


def comparison_numbers(
    comparison: Mapping[str, Any], of: str | None, gate: GateParams | None = None
) -> dict[str, Number | None]:
    """Name -> what became of a number since the audit before: a `rise` or `change` is after minus before, a `drop` before minus after.

    `drift.max_wasserstein` and the like are numbers of the comparison itself.
    """
    found: dict[str, Number | None] = {}
    if of is None:
        for row in comparison["drift"]:
            if gate and gate.site not in (None, row["site"]):
                continue
            spread = Number(
                row["max_wasserstein"],
                max(0.0, row["max_wasserstein"] - row["stray"]),
                row["max_wasserstein"] + row["stray"],
            )
            for key in ("drift.max_wasserstein", f"drift.max_wasserstein.{row['concept']}"):
                known = found.get(key)
                if known is None or spread.value > known.value:
                    found[key] = spread
        return found
    site, method = (gate and gate.site) or comparison["sites"][-1], (gate and gate.method) or "tuned"
    for row in comparison["changes"]:
        if (row["site"], row["method"]) in ((None, None), (site, method)):
            number = (
                Number(0.0, 0.0, 0.0) if comparison["identical"] else _bounded(row["value"], row["low"], row["high"])
            )
            name = row["quantity"] if row["concept"] is None else f"{row['quantity']}.{row['concept']}"
            found[name] = number.turned() if of == "drop" else number
    return found


def _number(row: Mapping[str, Any], name: str) -> Number | None:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    return None if value is None else _bounded(value, low, high)


def _bounded(value: float, low: float | None, high: float | None) -> Number:
    """Of limits that JSON has none for where they are infinite."""
    return Number(value, -math.inf if low is None else low, math.inf if high is None else high)


def _worst(judged: Sequence[Judged], rule: Rule) -> Judged:
    """The one that decides: a failure before anything undecided, and of several the farthest on the wrong side."""
    order = {"FAIL": 0, "NOT DECIDED": 1, "PASS": 2}
    sign = -1 if rule.op.startswith("<") else 1
    return min(judged, key=lambda part: (order[part.verdict], math.inf if part.value is None else sign * part.value))


def _asked(gate: GateParams) -> str:
    """What a gate asks for beside the name of a number."""
    given = {"method": gate.method, "site": gate.site}
    return "".join(f", {name} {value!r}" for name, value in given.items() if value is not None)


def _waived(judged: Judged, gate: GateParams, today: date) -> Judged:
    waiver = gate.waiver
    if waiver is None or judged.verdict == "PASS":
        return judged
    if today > waiver.until:
        return replace(judged, note=f"its waiver ended on {waiver.until}")
    return replace(judged, waived=f"{waiver.reason} (until {waiver.until})")
