"""The page is static, inert whatever the data say, and the same for the same inputs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from neuronlens.report import view
from neuronlens.report.page import html, report
from tests.report.artifacts import CONCEPTS, config, make_audit, results_table
from tests.report.inert import HOSTILE, Page, assert_inert


@pytest.fixture(scope="module")
def page(report_folder: Path) -> str:
    return (report_folder / "report.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing(page: str) -> None:
    parsed = Page(page)
    assert_inert(parsed)
    assert not re.search(r"https?:|url\(|@import|javascript:", page)
    assert len(page) < 1_000_000


def test_the_policy_admits_the_pages_own_style_and_script_and_nothing_else(page: str) -> None:
    (policy,) = [attributes["content"] for tag, attributes in Page(page).elements if "http-equiv" in attributes]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = Page(page).scripts
    styles, scripts = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script))
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{styles}'; script-src 'sha256-{scripts}';")
    assert "unsafe" not in policy


def test_a_page_without_an_explorer_runs_no_script(audit: Any) -> None:
    made = html(audit)
    parsed = Page(made)
    assert parsed.count("script") == 0
    assert "script-src" not in made
    assert "runs no script" in "".join(parsed.text)


def test_every_chart_has_a_caption_and_its_data(page: str) -> None:
    parsed = Page(page)
    figures = [part.split("</figure>")[0] for part in page.split("<figure")[1:]]
    assert parsed.count("figure") == parsed.count("figcaption") == len(figures) > 20
    drawn = sum(figure.count("<svg") for figure in figures)
    assert parsed.count("svg") == drawn + 1, (
        "no chart stands outside a figure but the explorer's, which draws its own, from a table"
    )
    for figure in figures:
        assert "<table" in figure
        assert "<svg" in figure or 'class="heat"' in figure


def test_equal_inputs_give_equal_bytes(audit_inputs: dict[str, Path], report_folder: Path, tmp_path: Path) -> None:
    report(config(), audit_inputs, tmp_path)
    names = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) >= 6
    for name in names:
        assert (tmp_path / name).read_bytes() == (report_folder / name).read_bytes()


def test_nothing_names_the_machine_or_the_time(audit_inputs: dict[str, Path], tmp_path: Path) -> None:
    secret = config("checkpoint.path=/home/someone/model", "dataset.path=/home/someone/data.csv")
    report(secret, audit_inputs, tmp_path)
    for path in tmp_path.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert str(audit_inputs["fit"].parent) not in text
        assert not re.search(r"20\d\d-\d\d-\d\d", text)


@pytest.mark.parametrize("label", HOSTILE)
def test_text_from_data_is_inert(label: str, tmp_path: Path) -> None:
    concepts = (label, *CONCEPTS[:2])
    inputs = make_audit(
        tmp_path / "audit",
        config(),
        results_table(concepts),
        name=label,
        warnings=[f"concept {label!r} is small", label],
    )
    out = tmp_path / "report"
    out.mkdir()
    report(config(), inputs, out)
    page = (out / "report.html").read_text(encoding="utf-8")
    parsed = Page(page)
    assert_inert(parsed)
    shown = "".join(parsed.text)
    assert "49" not in re.findall(r"Audit of (.*)", shown)[0]
    assert not set(shown) & set("\x00\x07\x1b\u202e\u2066\u200b")
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert label not in svg  # no text from data enters a chart at all
        assert "alert" not in svg
    assert json.loads((out / "audit.json").read_text(encoding="utf-8"))["base"]["concepts"][0]["concept"] in concepts
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert len(summary.splitlines()) <= 10
    outside_code = re.sub(r"`[^`\n]*`", "", summary)
    assert "`" not in outside_code
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(", outside_code)


def test_a_sweep_without_ranges_or_perplexity_still_has_a_page(tmp_path: Path) -> None:
    table = results_table(perplexity=None)
    whole = table.filter(pc.field("range") == "full")
    settings = config("interventions.ranges=[full]", "interventions.controls=[]")
    inputs = make_audit(tmp_path / "audit", settings, whole, kind="classifier")
    out = tmp_path / "report"
    out.mkdir()
    report(settings, inputs, out)
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert {finding["claim"] for finding in audit["findings"]} == {"known"}
    assert all(card["lower"] is None for card in audit["neurons"])
    assert_inert(Page((out / "report.html").read_text(encoding="utf-8")))


def test_a_sweep_by_another_ranking_than_the_presets_has_a_page(tmp_path: Path) -> None:
    table = results_table()
    ranked = table["saliency"].to_pylist()
    renamed = pa.array(["auroc" if name == "d_prime" else name for name in ranked])
    table = table.set_column(table.column_names.index("saliency"), "saliency", renamed)
    table = table.filter(pc.field("saliency") != "mean_abs")
    settings = config("fit.saliency=auroc", "interventions.controls=[]")
    inputs = make_audit(tmp_path / "audit", settings, table)
    out = tmp_path / "report"
    out.mkdir()
    report(settings, inputs, out)
    assert "neurons by auroc" in "".join(Page((out / "report.html").read_text(encoding="utf-8")).text)


def test_a_large_audit_is_drawn_in_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in {"SITES_DRAWN": 2, "METHODS_DRAWN": 5, "CONCEPTS_DRAWN": 2, "ROWS_LISTED": 7}.items():
        monkeypatch.setattr(view, name, limit)
    sites = [f"resid_post.{layer}" for layer in range(5)]
    inputs = make_audit(tmp_path / "audit", config(), results_table(sites=sites, tops=(0.1, 0.3)))
    out = tmp_path / "report"
    out.mkdir()
    report(config(), inputs, out)
    shown = " ".join("".join(Page((out / "report.html").read_text(encoding="utf-8")).text).split())
    assert "2 of 5 sites are drawn" in shown
    assert "2 of 6 concepts are drawn" in shown
    assert "9 methods not drawn" in shown  # 7 methods at two shares, 5 of them drawn
    assert f"{5 * 6 * 5 - 7} rows not listed here" in shown
    assert len(json.loads((out / "audit.json").read_text(encoding="utf-8"))["summary"]) == 5 * 7 * 2


def test_a_broken_no_op_is_shouted(audit: Any) -> None:
    assert 'class="warning">Largest change' not in html(audit)
    audit["trust"]["no_op_difference"] = 0.25
    assert 'class="warning">Largest change of a logit by an edit that does nothing: 0.250.' in html(audit)


def test_a_short_cut_is_shouted_about_beyond_its_tolerance_only(audit: Any) -> None:
    for difference, shouted in ((1e-6, False), (1e-4, True)):
        audit["trust"]["suffix_difference"] = difference
        assert audit["trust"]["suffix_tolerance"] == 1e-5
        assert ('class="warning">Largest change' in html(audit)) == shouted
