"""The first screen of a page: verdict, gates, what changed, trend, and what there is to trust, for whoever decides on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.strips import gate_strip
from neuronlens.pages.figures.trend import trend
from neuronlens.pages.text import count, significant
from neuronlens.report.context import Context, Numbers
from neuronlens.report.sections.changes import Changed, changed
from neuronlens.report.table import KIND_NAMES
from neuronlens.report.verdict import MARKS, TONES, Verdict, in_words, interval, threshold, verdict
from neuronlens.rules import Rule

Row = Mapping[str, Any]

GATES_SHOWN = 7
"""Rows of the gate table without a click; the others are folded below it."""
_TRENDS = {
    "accuracy": "accuracy, unedited",
    "selectivity": "selectivity",
    "complement_drop": "drop on the others",
}
_CONTROLS = ("random_neurons", "random_ranges", "other_concept", "leace")
_SHORT = 12  # hex digits of a fingerprint
_ORDER = ("FAIL", "NOT DECIDED", "PASS", "NOT APPLICABLE")


@dataclass(frozen=True)
class GateRow:
    """A gate in the table: as judged, in words, with its strip."""

    gate: Row
    verdict: str
    mark: str
    tone: str
    threshold: str
    interval: str
    previous: str
    margin: str
    figure: Figure | None


@dataclass(frozen=True)
class TrendPanel:
    """A number over the last audits of the line."""

    title: str
    figure: Figure


@dataclass(frozen=True)
class Trust:
    """A line of the trust box: what, how it is, and whether that is alarming."""

    name: str
    value: str
    warning: bool = False


@dataclass(frozen=True)
class Decision:
    """The first screen.

    Attributes:
        verdict: on the checkpoint.
        gates: in the order of urgency; the first `GATES_SHOWN` are on the first screen.
        changed: since the audit before, None where none is known.
        trends: of the line, none where it has a single audit.
        audits: those of the trends, in order.
        trust: lines of the box.
        context: what the page is told; None where nobody has judged.
    """

    verdict: Verdict
    gates: Sequence[GateRow]
    changed: Changed | None
    trends: Sequence[TrendPanel]
    audits: Sequence[Numbers]
    trust: Sequence[Trust]
    context: Context | None

    @property
    def shown(self) -> Sequence[GateRow]:
        """Gates of the first screen."""
        return self.gates[:GATES_SHOWN]

    @property
    def folded(self) -> Sequence[GateRow]:
        """The others."""
        return self.gates[GATES_SHOWN:]


def decision(trust: Sequence[Trust], context: Context | None, comparison: Row | None = None) -> Decision:
    """The first screen of an audit's page, or of a comparison's.

    Args:
        trust: lines of its trust box.
        context: None where nobody has judged.
        comparison: comparison.json, that of the context unless told otherwise.
    """
    comparison = comparison or (None if context is None else context.comparison)
    gates: Sequence[Row] = () if context is None else context.gates
    ordered = sorted(gates, key=lambda gate: (gate["waived"] is not None, _ORDER.index(gate["verdict"])))
    audits = () if context is None or len(context.trend) < 2 else context.trend
    return Decision(
        verdict(None if context is None else gates),
        [gate_row(gate) for gate in ordered],
        None if comparison is None else changed(comparison),
        trend_panels(audits),
        audits,
        trust,
        context,
    )


def gate_row(gate: Row) -> GateRow:
    """A gate that was judged, with what stands beside it, as the table shows it."""
    rule, value = Rule.parse(gate["rule"]), gate["value"]
    tone = TONES[gate["verdict"]]
    margin = gate["margin"]
    return GateRow(
        gate,
        in_words(gate),
        MARKS[gate["verdict"]],
        tone,
        threshold(gate["rule"]),
        "" if value is None else interval(gate["low"], gate["high"]),
        significant(gate["previous"]),
        "" if margin is None else f"{'+' if margin > 0 else ''}{significant(margin)}",
        None
        if value is None
        else gate_strip(
            value,
            gate["low"],
            gate["high"],
            rule.bound,
            below=rule.op.startswith("<"),
            tone=tone,
            previous=gate["previous"],
        ),
    )


def trend_panels(audits: Sequence[Numbers]) -> list[TrendPanel]:
    """A panel for each main number that was measured in any of the audits."""
    panels = []
    for name, title in _TRENDS.items():
        rows = [
            {
                "place": place,
                "current": audit.current,
                **{
                    key: None if (share := audit.values.get(f"{name}{end}")) is None else 100 * share
                    for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
                },
            }
            for place, audit in enumerate(audits, 1)
        ]
        if any(row["value"] is not None for row in rows):
            panels.append(TrendPanel(title, trend(rows)))
    return panels


def audit_trust(audit: Row) -> list[Trust]:
    """What the trust box says of an audit; the section `trust` says more."""
    trust, checkpoint = audit["trust"], audit["checkpoint"]
    controls = [KIND_NAMES[kind] for kind in _CONTROLS if any(row["kind"] == kind for row in audit["summary"])]
    rows = trust["fit_rows"].values()
    used, dropped = (sum(row[name] for row in rows) for name in ("used", "dropped"))
    libraries = ", ".join(
        f"{name} {audit['versions'][name]}"
        for name in ("neuronlens", "torch", "transformers")
        if name in audit["versions"]
    )
    warnings = trust["warnings"]
    return [
        Trust(
            "no-op edit",
            f"largest change of a logit {significant(trust['no_op_difference'])} (must be 0)",
            bool(trust["no_op_difference"]),
        ),
        Trust("controls", ", ".join(controls) or "none", not controls),
        Trust(
            "rows",
            f"{count(trust['test_rows'], 'test row')}; fit rows {used:,} used, {dropped:,} dropped; {trust['cut_rows']:,} cut",
        ),
        Trust("not looked at", f"{count(len(trust['not_looked_at']), 'thing')}, such as: {trust['not_looked_at'][0]}"),
        *([Trust("warnings", f"{len(warnings)}, first: {warnings[0]}", warning=True)] if warnings else []),
        Trust("run", f"seed {trust['seed']}, {checkpoint['dtype']} on {checkpoint['device']}"),
        Trust("versions", libraries),
        Trust(
            "fingerprints",
            f"checkpoint {checkpoint['fingerprint'][:_SHORT]}, data {audit['dataset']['fingerprint'][:_SHORT]}",
        ),
    ]
