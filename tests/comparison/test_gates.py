"""Gates: rules, what they decide by an interval, and how an audit's and a comparison's numbers are named."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import asdict
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neuronlens.artifact import read_json, read_table
from neuronlens.comparison.document import compare
from neuronlens.comparison.gates import (
    Judged,
    Number,
    audit_numbers,
    beside,
    comparison_numbers,
    exit_code,
    holds_still,
    judge_gates,
)
from neuronlens.config import Config, GateParams
from neuronlens.errors import ConfigError
from neuronlens.report.verdict import verdict
from neuronlens.rules import Rule, Verdict, as_written
from tests.compared import Audits

TODAY = date(2026, 11, 26)


@pytest.mark.parametrize(
    ("text", "low", "high", "verdict"),
    [
        ("selectivity >= 0.3", 0.31, 0.5, "PASS"),
        ("selectivity >= 0.3", 0.3, 0.5, "PASS"),
        ("selectivity > 0.3", 0.3, 0.5, "NOT DECIDED"),
        ("selectivity >= 0.3", 0.1, 0.29, "FAIL"),
        ("selectivity >= 0.3", 0.2, 0.4, "NOT DECIDED"),
        ("base_accuracy drop <= 0.02", -0.01, 0.02, "PASS"),
        ("base_accuracy drop <= 0.02", 0.021, 0.3, "FAIL"),
        ("base_accuracy drop < 2e-2", 0.02, 0.3, "FAIL"),
        ("base_accuracy drop <= 0.02", 0.01, 0.03, "NOT DECIDED"),
    ],
)
def test_the_interval_decides_and_not_the_point(text: str, low: float, high: float, verdict: str) -> None:
    assert Rule.parse(text).judge(low, high) == verdict


@given(st.sampled_from(["<=", ">=", "<", ">"]), st.floats(-2, 2), st.floats(-2, 2), st.floats(0, 1))
def test_a_verdict_says_where_every_number_of_the_interval_lies(
    op: str, bound: float, low: float, width: float
) -> None:
    high = low + width
    rule = Rule("x", None, op, bound)
    inside = [eval(f"{x!r} {op} {bound!r}") for x in (low, high)]
    expected = "PASS" if all(inside) else "NOT DECIDED" if any(inside) else "FAIL"
    assert rule.judge(low, high) == expected


@given(st.text(st.sampled_from('abä .*?[]"<>=|\n\\') | st.characters(), min_size=1, max_size=8))
def test_every_concept_can_be_named_in_a_rule(concept: str) -> None:
    rule = Rule.parse(f"{as_written(f'selectivity.{concept}')} drop >= 0.3")
    assert (rule.of, rule.op, rule.bound) == ("drop", ">=", 0.3)
    assert fnmatch.fnmatchcase(f"selectivity.{concept}", rule.name)
    if '"' not in concept:
        assert not fnmatch.fnmatchcase(f"selectivity.x{concept}", rule.name), "no pattern"
        quoted = Rule.parse(f'selectivity."{concept}" drop >= 0.3')
        assert fnmatch.fnmatchcase(f"selectivity.{concept}", quoted.name)


def test_a_name_is_quoted_where_it_has_to_be() -> None:
    assert as_written("drift") == "drift"
    assert as_written("selectivity.../soup") == "selectivity.../soup"
    assert as_written("selectivity.World news") == 'selectivity."World news"'
    assert as_written("selectivity.all*") == 'selectivity."all*"'
    assert as_written('selectivity."a" b') == "selectivity.?a??b"


@pytest.mark.parametrize(
    "text", ["", "selectivity", "selectivity = 0.3", "0.3 <= selectivity", "selectivity >= high", "a.b c >= 1"]
)
def test_what_is_no_rule_is_refused_where_it_stands(text: str) -> None:
    with pytest.raises(ValidationError, match=r"rule|at least 1 character"):
        Config.model_validate({"gates": {"mine": text}})


def test_intervals_of_several_numbers_are_wider() -> None:
    one = Number(0.5, 0.4, 0.7)
    assert one.widened(1) == pytest.approx(one)
    wide = one.widened(14)
    assert wide.low < one.low
    assert wide.high > one.high
    assert (wide.high - 0.5) / (0.5 - wide.low) == pytest.approx(2.0)  # as lopsided as before


def test_numbers_of_an_audit_have_the_names_of_its_tables(audits: Audits) -> None:
    document = read_json(audits.first / "report" / "audit.json")
    known = audit_numbers(document)
    concepts = [row["concept"] for row in document["base"]["concepts"]]
    assert known["base_accuracy"] == Number(*(document["base"][key] for key in ("accuracy", "low", "high")))
    for concept in concepts:
        row = next(
            row
            for row in document["results"]
            if (row["role"], row["method"], row["concept"]) == ("chosen", "tuned", concept)
        )
        assert known[f"selectivity.{concept}"] == Number(
            row["selectivity"], row["selectivity_low"], row["selectivity_high"]
        )
    other = audit_numbers(document, GateParams(rule="selectivity >= 0", method=document["summary"][0]["method"]))
    assert other != known


def test_a_checkpoint_that_was_saved_again_raises_nothing(audits: Audits, tmp_path: Path) -> None:
    comparison = compare(audits.first, audits.again, tmp_path / "out")
    gates = Config.model_validate(
        {
            "gates": {
                "accuracy": "base_accuracy drop <= 0",
                "each concept": "base_accuracy.* drop <= 0",
                "confidence": "base_confidence drop <= 0",
                "text": "base_log_perplexity rise <= 0",
                "drift": "drift.max_wasserstein <= 0",
            }
        }
    ).gates
    judged = judge_gates(gates, read_json(audits.again / "report" / "audit.json"), comparison, today=TODAY)
    assert [part.verdict for part in judged] == ["PASS"] * 5
    assert exit_code(judged) == 0


def test_without_an_audit_before_it_no_change_is_decided(audits: Audits) -> None:
    gates = Config.model_validate(
        {"gates": {"accuracy": "base_accuracy drop <= 0.5", "low": "base_accuracy >= 0"}}
    ).gates
    judged = judge_gates(gates, read_json(audits.first / "report" / "audit.json"), today=TODAY)
    assert [(part.verdict, part.note) for part in judged] == [
        ("NOT DECIDED", "no audit before this one is named"),
        ("PASS", None),
    ]
    assert exit_code(judged) == 4


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("classifier", "a classifier has no perplexity, and no need of this gate"),
        ("language_model", "it was not measured"),
    ],
)
def test_a_number_that_was_not_measured_decides_nothing(audits: Audits, kind: str, note: str) -> None:
    document = read_json(audits.first / "report" / "audit.json")
    document["checkpoint"]["kind"] = kind
    for row in document["summary"]:
        row |= {name: None for name in row if "perplexity" in name}
    gates = Config.model_validate({"gates": {"text": "perplexity_ratio <= 1.1"}}).gates
    (judged,) = judge_gates(gates, document, today=TODAY)
    assert (judged.verdict, judged.value, judged.note) == ("NOT DECIDED", None, note)


def test_a_change_does_not_apply_to_the_first_of_a_line(audits: Audits) -> None:
    waiver = {"reason": "known", "until": "2026-11-27"}
    gates = Config.model_validate(
        {
            "gates": {
                "accuracy": {"rule": "base_accuracy drop <= 0.5", "waiver": waiver},
                "drift": "drift.max_wasserstein <= 0.5",
                "low": "base_accuracy >= 0",
            }
        }
    ).gates
    judged = judge_gates(gates, read_json(audits.first / "report" / "audit.json"), first=True, today=TODAY)
    assert [(part.verdict, part.waived, part.note) for part in judged] == [
        ("NOT APPLICABLE", None, "there is no audit before this one"),
        ("NOT APPLICABLE", None, "there is no audit before this one"),
        ("PASS", None, None),
    ]
    assert exit_code(judged) == 0


@pytest.mark.parametrize(
    ("judged", "word", "code"),
    [
        ({"PASS": None}, "PASS", 0),
        ({"PASS": None, "NOT APPLICABLE": None}, "PASS", 0),
        ({"FAIL": "known", "NOT APPLICABLE": None}, "PASS", 0),
        ({"FAIL": None, "NOT DECIDED": None}, "FAIL", 1),
        ({"PASS": None, "NOT DECIDED": None}, "NOT DECIDED", 4),
        ({"NOT APPLICABLE": None}, "NOT DECIDED", 4),
        ({}, "NOT DECIDED", 4),
    ],
)
def test_the_exit_code_says_what_the_page_says(judged: dict[Verdict, str | None], word: str, code: int) -> None:
    found = [
        Judged("a", "base_accuracy drop <= 0.5", None, None, None, None, each, waived)
        for each, waived in judged.items()
    ]
    assert exit_code(found) == code
    assert verdict(beside([asdict(gate) for gate in found], {})).word == word


def test_a_failure_names_the_concept_and_a_waiver_ends(audits: Audits) -> None:
    waiver = {"reason": "known since the tokenizer changed", "until": "2026-11-26"}
    gates = Config.model_validate({"gates": {"known": {"rule": "base_accuracy.* >= 1.01", "waiver": waiver}}}).gates
    document = read_json(audits.first / "report" / "audit.json")
    (today,) = judge_gates(gates, document, today=TODAY)
    assert today.verdict == "FAIL"
    assert today.number is not None
    assert today.number.startswith("base_accuracy.")
    assert today.waived == "known since the tokenizer changed (until 2026-11-26)"
    assert exit_code([today]) == 0
    (after,) = judge_gates(gates, document, today=date(2026, 11, 27))
    assert after.waived is None
    assert after.note == "its waiver ended on 2026-11-26"
    assert exit_code([after]) == 1


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        ("selectivty >= 0", "selectivity"),
        ("base_accuracy.sprots >= 0", "base_accuracy.sports"),
        ("base_acuracy drop <= 0", "base_accuracy"),
    ],
)
def test_a_gate_on_no_known_number_says_what_may_be_meant(
    rule: str, meant: str, audits: Audits, tmp_path: Path
) -> None:
    document, comparison = (
        read_json(audits.first / "report" / "audit.json"),
        compare(audits.first, audits.again, tmp_path / "out"),
    )
    with pytest.raises(ConfigError, match=rf"gates\.mine: .* Did you mean '{meant}'\?"):
        judge_gates({"mine": GateParams(rule=rule)}, document, comparison, today=TODAY)


def test_a_drop_is_a_rise_turned_round(audits: Audits, tmp_path: Path) -> None:
    comparison = compare(audits.first, audits.moved, tmp_path / "out")
    rises, drops = comparison_numbers(comparison, "rise"), comparison_numbers(comparison, "drop")
    assert rises.keys() == drops.keys()
    for name, rise in rises.items():
        drop = drops[name]
        assert rise is not None
        assert drop is not None
        assert (drop.value, drop.low, drop.high) == pytest.approx((-rise.value, -rise.high, -rise.low))


def test_a_gate_on_a_change_finds_every_method_at_every_site(audits: Audits, tmp_path: Path) -> None:
    """Also those that were not chosen, which stand in the table alone."""
    from tasks.comparing import judged

    folder = tmp_path / "out"
    compare(audits.first, audits.moved, folder)
    rows = read_table(folder / "changes.parquet").to_pylist()
    own = {
        (row["method"], row["site"]): row
        for row in rows
        if row["method"] and row["quantity"] == "selectivity" and row["concept"] is None
    }
    assert {row["role"] for row in own.values()} >= {"sweep", "chosen"}
    rule = "selectivity change <= 2"
    gates = {f"{at}": GateParams(rule=rule, method=method, site=site) for at, (method, site) in enumerate(own)}
    found = judged(gates, audits.moved, folder)
    assert [(gate.verdict, gate.value) for gate in found] == [("PASS", row["value"]) for row in own.values()]


def test_a_gate_on_drift_is_of_its_site(audits: Audits, tmp_path: Path) -> None:
    comparison = compare(audits.first, audits.moved, tmp_path / "out")
    farthest: dict[str, float] = {}
    for row in comparison["drift"]:
        farthest[row["site"]] = max(farthest.get(row["site"], 0.0), row["max_wasserstein"])
    rule = "drift.max_wasserstein <= 100"
    gates = {site: GateParams(rule=rule, site=site) for site in farthest} | {"all": GateParams(rule=rule)}
    document = read_json(audits.moved / "report" / "audit.json")
    found = {gate.gate: gate.value for gate in judge_gates(gates, document, comparison, today=TODAY)}
    assert found == farthest | {"all": max(farthest.values())}


def test_beside_a_gate_stand_its_margin_and_the_number_before(audits: Audits, tmp_path: Path) -> None:
    rules = {
        "known": "base_accuracy >= 0.1",
        "each": "base_accuracy.* <= 0.9",
        "kept": "base_accuracy drop <= 0.5",
        "drift": "drift.max_wasserstein <= 9",
    }
    gates = Config.model_validate({"gates": rules}).gates
    comparison = compare(audits.first, audits.moved, tmp_path / "out")
    before, after = (read_json(folder / "report" / "audit.json") for folder in (audits.first, audits.moved))
    judged = [asdict(gate) for gate in judge_gates(gates, after, comparison, today=TODAY)]
    found = {gate["gate"]: gate for gate in beside(judged, gates, before)}
    assert found["known"]["margin"] == pytest.approx(found["known"]["low"] - 0.1)
    assert found["each"]["margin"] == pytest.approx(0.9 - found["each"]["high"])
    assert found["known"]["previous"] == before["base"]["accuracy"]
    concepts = {f"base_accuracy.{row['concept']}": row["accuracy"] for row in before["base"]["concepts"]}
    assert found["each"]["previous"] == concepts[found["each"]["number"]]
    assert (found["kept"]["previous"], found["drift"]["previous"]) == (
        None,
        None,
    )  # changes of changes are nobody's number
    earlier = [gate | {"value": 0.25} for gate in judged]
    assert {gate["previous"] for gate in beside(judged, gates, before, earlier)} == {0.25}
    for gate in found.values():
        assert (gate["margin"] >= 0) == (gate["verdict"] == "PASS")


def test_limits_that_are_infinite_become_what_json_knows() -> None:
    judged = {"gate": "g", "rule": "selectivity >= 0.3", "number": "selectivity", "value": 0.5, "low": -math.inf}
    (found,) = beside([judged | {"high": math.inf, "verdict": "NOT DECIDED", "waived": None, "note": None}], {})
    assert (found["low"], found["high"], found["margin"]) == (None, None, None)


def test_what_was_judged_holds_as_long_as_the_audit_has_the_numbers(audits: Audits) -> None:
    gates = Config.model_validate({"gates": {"known": "base_accuracy >= 0.1", "each": "selectivity.* >= -2"}}).gates
    documents = [read_json(folder / "report" / "audit.json") for folder in (audits.first, audits.again, audits.moved)]
    judged = [asdict(gate) for gate in judge_gates(gates, documents[0], today=TODAY)]
    assert [holds_still(judged, gates, document) for document in documents] == [True, True, False]
    assert holds_still([gate | {"value": None} for gate in judged], gates, documents[2])
