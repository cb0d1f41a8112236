"""What stands around an audit is on its page: the first screen, movement and lineage; without it the page says what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from neuronlens.comparison.page import html as comparison_html
from neuronlens.pages.text import MINUS
from neuronlens.report.context import main_numbers
from neuronlens.report.page import html
from neuronlens.report.sections.decision import GATES_SHOWN
from tests.report.around import comparison, context, gate
from tests.report.inert import HOSTILE, Page


def text(source: str) -> str:
    return " ".join("".join(Page(source).text).split())


def test_a_page_that_nobody_has_judged_says_so(audit: Any) -> None:
    shown = text(html(audit))
    assert "NOT DECIDED No gates were judged on this page" in shown
    assert "Movement" not in shown
    assert 'href="../index.html"' not in html(audit)


def test_the_first_screen_has_the_verdict_the_gates_what_changed_the_trend_and_the_trust(audit: Any) -> None:
    page = html(audit, context=context())
    screen = page[: page.index("</section>")]
    shown = " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", screen, flags=re.DOTALL)).split())
    assert (
        "✖ FAIL 1 of 3 gates fails: selectivity.sports 0.500 [0.400, 0.600], asked for ≥ 0.3. 1 failure is waived."
        in shown
    )
    for told in (
        "judged on 2026-11-26",
        "selectivity >= 0.3",
        "FAIL (waived until 2027-01-31: labels are being corrected)",
        "0.250 +0.100",  # before, and the margin
        "▲ 1 improved ▼ 1 worsened ● 0 within noise",
        f"sports : accuracy 50.0 → 30.0 ({MINUS}20.0)",
        "Trend",
        "no-op edit largest change of a logit 0 (must be 0)",
        "120 test rows",
        "seed 0, float32 on cpu",
    ):
        assert told in shown, told
    assert screen.count("<svg") == 3 + 1 + 3  # a strip per gate, the slopes, a panel per number of the trend
    assert "<script" not in page


def test_gates_stand_in_the_order_of_urgency_and_many_are_folded(audit: Any) -> None:
    many = [gate(f"g{i}", "PASS") for i in range(GATES_SHOWN + 3)] + [gate("late", "FAIL", -0.1)]
    page = html(audit, context=replace(context(), gates=many))
    assert page.index("<bdi>late</bdi>") < page.index("<bdi>g0</bdi>")
    folded = page[page.index("4 more gates") :]
    assert "<bdi>g9</bdi>" in folded
    assert "<bdi>g0</bdi>" not in folded


def test_movement_and_lineage_are_on_the_page(audit: Any) -> None:
    shown = text(html(audit, context=context()))
    for told in (
        "Movement since checkpoint-1",
        "1 neuron 7: vanished.",
        "2.0 kB",
        "reused: nothing it depends on has changed",
        "run checkpoint-1",
        "neuronlens audit --params 'audits/checkpoint-1/audit.yaml'",
    ):
        assert told in shown, told


def test_the_stages_own_page_has_hashes_and_sizes(audit: Any) -> None:
    shown = text(html(audit))
    for known in audit["artifacts"].values():
        assert known["hash"] in shown
    assert audit["checkpoint"]["fingerprint"] in shown
    assert "seconds" not in shown[shown.index("Lineage") :].partition("Glossary")[0]


def test_without_a_comparison_the_way_to_one_is_told(audit: Any) -> None:
    bare = replace(context(), comparison=None)
    assert "No comparison with checkpoint-1 is stored." in text(html(audit, context=bare))
    assert "No audit before this one is known." in text(html(audit, context=replace(bare, before=None)))


def test_two_models_that_do_the_same_have_changed_nothing(audit: Any) -> None:
    same = replace(context(), comparison=comparison() | {"identical": True})
    assert "Nothing: both models read, said and did the same to the last bit." in text(html(audit, context=same))


def test_a_comparisons_page_has_the_same_first_screen() -> None:
    judged, plain = comparison_html(comparison(), context()), comparison_html(comparison())
    assert "✖ FAIL" in text(judged)
    assert "NOT DECIDED No gates were judged on this page" in text(plain)
    for page in (judged, plain):
        assert "1 improved" in text(page)
        assert "Ranges before and after" in text(page)
        assert "<script" not in page


def test_a_broken_no_op_is_shouted_on_the_first_screen(audit: Any) -> None:
    quiet = html(audit, context=context())
    audit["trust"]["no_op_difference"] = 0.25
    loud = html(audit, context=context())
    assert '<div class="warning"><dt>no-op edit' not in quiet
    assert '<div class="warning"><dt>no-op edit' in loud


@pytest.mark.parametrize("label", HOSTILE)
def test_names_from_anywhere_are_inert(label: str, audit: Any) -> None:
    around = context(label, label)
    pages = [comparison_html(comparison(label, label), around)]
    if label == HOSTILE[-1]:
        every = " ".join(HOSTILE)
        pages.append(html(audit, context=context(every, every)))
    for page in pages:
        parsed = Page(page)
        assert parsed.open == []
        assert not parsed.count("script")
        assert not parsed.count("img")
        for _, attributes in parsed.elements:
            assert not any(name.startswith("on") or name == "style" for name in attributes)
            assert re.match(r"#|\.\./|index\.html", str(attributes.get("href", "#")))
        assert not {*"".join(parsed.text)} & {*"\x00\x07\x1b\u202e\u2066\u200b"}
        for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            assert label not in svg


def test_main_numbers_are_those_of_the_document(audit: Any) -> None:
    found = main_numbers(audit)
    (row,) = [
        row
        for row in audit["summary"]
        if (row["site"], row["method"], row["role"]) == (audit["sites"][-1]["site"], "tuned", "chosen")
    ]
    assert found["accuracy"] == audit["base"]["accuracy"]
    assert (found["selectivity_low"], found["complement_drop"]) == (
        row["selectivity_low"],
        row["complement_accuracy_drop"],
    )
