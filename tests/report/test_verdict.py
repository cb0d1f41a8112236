"""The verdict of all gates together, in a word and with the number that decides."""

from __future__ import annotations

import pytest

from neuronlens.pages.text import MINUS
from neuronlens.report.verdict import in_words, interval, verdict
from tests.report.around import WAIVED, gate


def test_nobody_has_judged_is_told_with_the_way_out() -> None:
    found = verdict(None)
    assert (found.word, found.mark, found.tone) == ("NOT DECIDED", "○", "open")
    assert "neuronlens report AUDIT" in found.sentence
    assert "params.yaml" in verdict([]).sentence


def test_the_first_of_a_line_whose_gates_are_all_on_changes_is_not_decided() -> None:
    found = verdict([gate("kept", "NOT APPLICABLE"), gate("drift", "NOT APPLICABLE")])
    assert found.word == "NOT DECIDED"
    assert found.sentence == "No gate counts: 2 gates do not apply. There is no audit before this one."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["PASS"], "PASS"),
        (["PASS", "FAIL", "NOT DECIDED"], "FAIL"),
        (["PASS", "NOT DECIDED"], "NOT DECIDED"),
        (["PASS", "NOT APPLICABLE"], "PASS"),
        (["NOT APPLICABLE"], "NOT DECIDED"),
    ],
)
def test_the_worst_of_the_gates_that_count_is_the_word(words: list[str], expected: str) -> None:
    assert verdict([gate(f"g{i}", word) for i, word in enumerate(words)]).word == expected


def test_the_number_that_decides_is_the_worst_in_widths_of_its_own_interval() -> None:
    found = verdict(
        [
            gate("wide", "FAIL", -0.3, number="wide", low=-3.0, high=-0.1, value=-1.5),
            gate("narrow", "FAIL", -0.2, number="narrow", low=0.1, high=0.12, value=0.11),
            gate("fine", "PASS", 0.2, number="fine"),
        ]
    )
    assert found.sentence == "2 of 3 gates fail, the worst: narrow 0.110 [0.100, 0.120], asked for ≥ 0.3."
    assert found.number in found.sentence


def test_a_change_is_called_one() -> None:
    found = verdict([gate("kept", "FAIL", -0.01, rule="base_accuracy drop <= 0.02", number="base_accuracy.health")])
    assert found.sentence == "The only gate fails: base_accuracy.health drop 0.500 [0.400, 0.600], asked for ≤ 0.02."


def test_waived_failures_are_counted_apart() -> None:
    waived = gate("known", "FAIL", -0.1, waived=WAIVED)
    found = verdict([gate("a", "PASS"), waived, gate("b", "NOT APPLICABLE")])
    assert found.word == "PASS"
    assert found.sentence.endswith("1 failure is waived. 1 gate does not apply.")
    assert found.sentence.startswith("1 of 3 gates pass: ")
    assert in_words(waived) == "FAIL (waived until 2027-01-31: labels are being corrected)"
    assert verdict([waived]).sentence == "No gate counts: 1 failure is waived."


def test_why_a_gate_has_no_number_is_told_instead_of_it() -> None:
    found = verdict(
        [gate("typo", "NOT DECIDED", None, value=None, low=None, high=None, note="'selectivty' is no number")]
    )
    assert found.sentence == "The only gate is not decided: typo, 'selectivty' is no number."


def test_an_end_that_json_has_no_number_for_is_infinite() -> None:
    assert interval(None, 0.5) == f"[{MINUS}∞, 0.500]"
    assert verdict([gate("open", "NOT DECIDED", None, low=None)]).word == "NOT DECIDED"
