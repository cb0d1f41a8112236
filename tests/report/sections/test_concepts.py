"""Every main method has a chart in which every concept has its point."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from neuronlens.report.sections.concepts import NUMBERED, concept_numbers, concept_panels
from neuronlens.report.table import main_summaries
from tests.report.artifacts import CONCEPTS


def test_each_main_method_of_each_site_has_a_panel_with_all_concepts(audit: Any) -> None:
    panels = concept_panels(audit)
    assert list(panels) == ["mlp_post.1", "resid_post.0"], "the deepest first"
    for site, found in panels.items():
        expected = [row["method"] for row in main_summaries(audit) if row["site"] == site]
        assert [panel.method["method"] for panel in found] == expected
        for panel in found:
            assert [row["concept"] for row in panel.rows] == list(CONCEPTS)
            mean = sum(row["target_accuracy_drop"] for row in panel.rows) / len(panel.rows)
            assert panel.method["target_accuracy_drop"] == pytest.approx(mean)


def test_the_numbers_beside_points_are_those_of_the_list(audit: Any, report_folder: Any) -> None:
    numbers = concept_numbers(audit)
    assert [*numbers.items()] == [(concept, place) for place, concept in enumerate(CONCEPTS, 1)]
    page = (report_folder / "report.html").read_text(encoding="utf-8")
    (listed,) = re.findall(r'<ol class="key numbers">(.*?)</ol>', page, re.DOTALL)
    assert re.findall(r"<bdi>(.*?)</bdi>", listed) == list(CONCEPTS)
    for panel in concept_panels(audit)["mlp_post.1"]:
        tags = [element.text for element in ET.fromstring(panel.figure.svg()).iter("text")]
        assert {str(number) for number in numbers.values()} <= set(tags)


def test_many_concepts_have_no_numbers(audit: Any) -> None:
    audit = json.loads(json.dumps(audit))
    audit["base"]["concepts"] += [{"concept": f"more {place}"} for place in range(NUMBERED)]
    (panel, *_), *_ = concept_panels(audit).values()
    assert {row["tag"] for row in panel.figure.data["methods"]} == {""}


def test_crosses_end_at_the_axes(audit: Any) -> None:
    for panels in concept_panels(audit).values():
        for panel in panels:
            low, high = (panel.figure.data["corners"][end] for end in (0, 1))
            for row in panel.figure.data["methods"]:
                for group in ("target", "complement"):
                    assert low[group] <= row[f"{group}_low"] <= row[group] <= row[f"{group}_high"] <= high[group]
