"""Heatmaps show the numbers of the tuned method, and overlaps of the selected neurons."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from neuronlens.artifact import read_table
from neuronlens.evaluation.summary import choose_settings
from neuronlens.report.sections.heatmaps import LEVELS, heatmap_method, heatmaps, overlap_rows


def test_cells_are_the_numbers_of_the_results(audit: Any) -> None:
    maps = {map_.name: map_ for map_ in heatmaps(audit)}
    assert list(maps) == ["selectivity", "overlap", "target_gate", "complement_gate"]
    method = heatmap_method(audit)
    assert method is not None
    assert method["method"] == "tuned"
    own = {(row["site"], row["concept"]): row for row in audit["results"] if row["method"] == "tuned"}
    assert len(own) == 12
    for (site, concept), row in own.items():
        for name, column in (("selectivity", "selectivity"), ("target_gate", "dose_target")):
            cell = maps[name].rows[concept][maps[name].sites.index(site)]
            assert cell.value == row[column]
            assert cell.shade == min(LEVELS - 1, max(0, int(LEVELS * row[column])))


def test_the_overlap_is_the_mean_over_selected_neurons_and_other_concepts(
    audit_inputs: dict[str, Path], audit: Any
) -> None:
    setting = choose_settings(read_table(audit_inputs["evaluate"] / "results.parquet"))[0]
    ranges = read_table(audit_inputs["fit"] / "ranges.parquet")
    overlap = read_table(audit_inputs["fit"] / "overlap.parquet").to_pylist()
    found = overlap_rows(audit_inputs["fit"], setting)
    assert found == audit["overlap"]
    assert len(found) == 12
    for row in found:
        chosen = ranges.filter(
            (pc.field("site") == row["site"])
            & (pc.field("concept") == row["concept"])
            & (pc.field("saliency") == setting.saliency)
            & (pc.field("top") == setting.top)
            & (pc.field("role") == "sweep")
            & (pc.field("range") == "gaussian")
        )
        neurons = set(chosen["neuron"].to_pylist())
        assert 0 < len(neurons) < 8
        shared = [
            one["histogram_overlap"]
            for one in overlap
            if one["site"] == row["site"]
            and row["concept"] in (one["concept"], one["other"])
            and one["neuron"] in neurons
        ]
        assert len(shared) == 5 * len(neurons)
        assert row["overlap"] == pytest.approx(sum(shared) / len(shared))


def test_a_number_that_was_not_measured_has_no_shade(audit: Any) -> None:
    audit = json.loads(json.dumps(audit))
    for row in audit["results"]:
        if (row["method"], row["site"]) == ("tuned", "resid_post.0"):
            row["selectivity"] = None
    selectivity = heatmaps(audit)[0]
    assert {cells[0].shade for cells in selectivity.rows.values()} == {None}
    assert None not in {cells[1].shade for cells in selectivity.rows.values()}


def test_every_shade_has_a_style(report_folder: Path) -> None:
    page = (report_folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"\.h(\d+)\{", page)) == {str(shade) for shade in range(LEVELS)}
