"""The frontier goes through the shares of the neurons, one line for each kind of range and width."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from neuronlens.report.document import audit_document
from neuronlens.report.sections.frontiers import frontiers
from tests.report.artifacts import config, make_audit, results_table

TOPS = ["interventions.top=[0.2, 0.3]"]


def _audit(folder: Path, *, tops: tuple[float, ...] = (0.2, 0.3), **options: Any) -> Any:
    settings = config(*TOPS) if len(tops) > 1 else config()
    return audit_document(settings, make_audit(folder, settings, results_table(tops=tops, **options)))


def test_points_are_the_means_of_the_sweep(tmp_path: Path) -> None:
    audit = _audit(tmp_path)
    found = frontiers(audit)
    assert found is not None
    assert found.widths == [2.0, 2.5]
    assert [panel.saliency for panel in found.panels] == ["mean_abs", "d_prime"]
    for panel in found.panels:
        assert Counter((row["kind"], row["told"]) for row in panel.rows) == {
            ("gaussian", 2.0): 2,
            ("gaussian", 2.5): 2,
            ("full", None): 2,
        }
        for row in panel.rows:
            (mean,) = (
                one
                for one in audit["summary"]
                if (one["kind"], one["tau"], one["saliency"], 100 * one["top"])
                == (row["kind"], row["told"], panel.saliency, row["top"])
            )
            assert row["target"] == pytest.approx(100 * mean["target_accuracy_drop"])
            assert row["complement"] == pytest.approx(100 * mean["complement_accuracy_drop"])
            assert row["ratio"] == mean["perplexity_ratio"]


def test_without_ordinary_text_nothing_is_drawn_of_its_perplexity(tmp_path: Path) -> None:
    measured, unmeasured = frontiers(_audit(tmp_path / "a")), frontiers(_audit(tmp_path / "b", perplexity=None))
    assert measured is not None
    assert unmeasured is not None
    assert all(panel.perplexity is not None for panel in measured.panels)
    assert all(panel.perplexity is None for panel in unmeasured.panels)


def test_one_setting_is_no_frontier(tmp_path: Path) -> None:
    audit = _audit(tmp_path, tops=(0.3,))
    for row in audit["summary"]:
        assert row["role"] == "sweep"
    narrow = audit | {"summary": [row for row in audit["summary"] if row["tau"] != 2.5]}
    assert frontiers(audit) is not None
    assert frontiers(narrow) is None
