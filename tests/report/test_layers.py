"""The table of layers: what each site gives alone, what the best give together, and no word more than the numbers bear."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from neuronlens.report import markdown
from neuronlens.report.document import audit_document
from neuronlens.report.layers import layers_of
from neuronlens.report.markdown import summary_markdown
from neuronlens.report.metrics import metrics
from neuronlens.report.page import html
from tests.report.artifacts import CONCEPTS, config, joint_table, make_audit, results_table
from tests.report.inert import HOSTILE, Page, assert_inert

SITES = ("resid_post.0", "mlp_post.1")


def document(folder: Path, *, concepts: tuple[str, ...] = CONCEPTS, sites: tuple[str, ...] = SITES, **how: Any) -> Any:
    """audit.json of artifacts made by hand."""
    return audit_document(config(), make_audit(folder, config(), results_table(concepts, sites), **how))


def shown(audit: Any) -> str:
    """The page's text."""
    page = Page(html(audit))
    assert_inert(page)
    return " ".join("".join(page.text).split())


def test_each_site_has_the_tuned_methods_means(audit: Any) -> None:
    tuned = {row["site"]: row for row in audit["summary"] if (row["role"], row["method"]) == ("chosen", "tuned")}
    found = audit["layers"]["sites"]
    assert [row["site"] for row in found] == list(SITES)
    for row in found:
        same = {name: tuned[row["site"]][name] for name in row if name != "best_of"}
        assert {name: row[name] for name in same} == same
    assert [row["best_of"] for row in found] == [0, len(CONCEPTS)]


@pytest.mark.parametrize(
    ("gain", "width", "p", "verdict"),
    [
        (0.2, 0.1, 0.01, "better"),
        (-0.2, 0.1, 0.01, "worse"),
        (0.2, 0.1, 0.06, "not decided"),
        (0.2, 0.3, 0.01, "not decided"),
        (-0.2, 0.3, 0.01, "not decided"),
        (0.0, 0.0, 1.0, "not decided"),
    ],
)
def test_a_gain_is_decided_by_interval_and_test(gain: float, width: float, p: float, verdict: str) -> None:
    rows = joint_table(("a", "b"), SITES, gain, width=width, p=p).to_pylist()
    assert [row["verdict"] for row in layers_of([], rows, SITES)["joint"]] == [verdict] * 3


def test_a_concept_without_rows_is_not_decided() -> None:
    (row, _) = joint_table(("a",), SITES, 0.2).to_pylist()
    row |= dict.fromkeys(("gain", "gain_low", "gain_high", "gain_p", "gain_p_adjusted"))
    assert layers_of([], [row], SITES)["joint"][0]["verdict"] == "not decided"


def test_the_page_shows_sites_then_the_best_together(audit: Any) -> None:
    text = shown(audit)
    table = text[text.index("Layers Tuned ranges at each site alone") : text.index("The unedited model concept")]
    alone = [table.index(f"{site} ") for site in SITES]
    assert alone == sorted(alone)
    assert "the best 2 together80.0[75.0, 85.0]10.0[5.0, 15.0]70.0[65.0, 75.0]2.51.2520.0[15.0, 25.0]✔ better" in table
    assert "resid_post.0 shallow/settingmlp_post.1 deep/setting" in table
    assert table.count("✔ better") == 1 + len(CONCEPTS)


def test_the_summary_has_a_table_below_its_lines(audit: Any) -> None:
    lines = summary_markdown(audit).splitlines()
    assert lines.index("") <= markdown.LINES
    header, rule, *rows = lines[lines.index("") + 1 :]
    assert header == "| Layers | target drop | others' drop | selectivity | gain over the best site |"
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1
    assert [row.split(" | ")[0] for row in rows] == [*(f"| {site}" for site in SITES), "| the best 2 together"]
    assert rows[-1].endswith(" | 70.0 [65.0, 75.0] | 20.0 [15.0, 25.0] better |")


def test_many_sites_are_summed_up_by_some(tmp_path: Path) -> None:
    sites = tuple(f"resid_post.{layer}" for layer in range(14))
    audit = document(tmp_path, concepts=("a", "b"), sites=sites, gain=0.3, joint=0.1)
    lines = summary_markdown(audit).splitlines()
    listed = re.findall(r"^\| (resid_post\.\d+) \|", "\n".join(lines), re.MULTILINE)
    assert len(listed) == markdown.SITES_LISTED
    assert (listed[0], listed[-1]) == (sites[0], sites[-1])
    assert any(line.startswith("| Layers (12 of 14) | ") for line in lines)
    assert len(audit["layers"]["sites"]) == 14


def test_metrics_have_what_is_gained_together(audit: Any) -> None:
    found = metrics(audit)
    assert found["joint/2/selectivity"] == pytest.approx(0.7)
    assert found["joint/2/gain"] == pytest.approx(0.2)
    assert "joint/2/dose_complement" not in found, "it was not measured"


def test_a_single_site_has_no_table(tmp_path: Path) -> None:
    audit = document(tmp_path, sites=SITES[:1], gain=0.3)
    assert [row["best_of"] for row in audit["layers"]["sites"]] == [None]
    assert audit["layers"]["joint"] == []
    page, summary = html(audit), summary_markdown(audit)
    assert "Layers" not in page + summary
    assert "est 2 together" not in page
    assert "joint edit" not in page
    assert len(summary.splitlines()) <= markdown.LINES
    assert not any(name.startswith("joint/") for name in metrics(audit))
    assert "Edits of several sites together." not in audit["trust"]["not_looked_at"]


def test_sites_that_were_edited_apart_are_still_compared(tmp_path: Path) -> None:
    audit = document(tmp_path, gain=0.3)
    text = shown(audit)
    assert "Layers Tuned ranges at each site alone. Drops" in text
    assert "gain over" not in text
    assert "| Layers |" in summary_markdown(audit)
    assert "Edits of several sites together." in audit["trust"]["not_looked_at"]


def test_where_nothing_was_tuned_there_is_nothing_to_compare(tmp_path: Path) -> None:
    audit = document(tmp_path)
    assert audit["layers"] == {"sites": [], "joint": []}
    assert "Layers" not in html(audit) + summary_markdown(audit)


@pytest.mark.parametrize("label", HOSTILE[:2])
def test_concepts_in_the_table_are_escaped(label: str, tmp_path: Path) -> None:
    audit = document(tmp_path, concepts=(label, "b"), gain=0.3, joint=0.2)
    page = html(audit)
    assert_inert(Page(page))
    assert label not in page
    table = page[page.index("Edited together, concept by concept") :].split("</details>")[0]
    assert table.count(f"<bdi>{escape(label)}</bdi>") == 1
    assert label not in summary_markdown(audit)
