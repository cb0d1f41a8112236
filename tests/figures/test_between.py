"""Charts of what lies between checkpoints say what the page of their comparison says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuronlens import figures
from neuronlens.artifact import read_json
from neuronlens.comparison import SCHEMA_VERSION
from neuronlens.errors import UserError
from neuronlens.pages.standalone import svg_file
from neuronlens.report.context import main_numbers
from tests.figures.drawn import finished, words
from tests.report.around import change, comparison, gate
from tests.report.inert import HOSTILE


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("audits")
    return [finished(folder / name) for name in ("one", "two")]


def test_gates_are_told_with_their_verdicts_and_drawn_where_they_have_a_number() -> None:
    judged = [gate("selective", "PASS"), gate("spared", "FAIL", -0.1, low=0.1, high=0.2, value=0.15)]
    judged += [gate("text", "NOT DECIDED", None, value=None, low=None, high=None)]
    chart = figures.gates(judged)
    told = words(chart)
    assert any("selective: PASS" in text for text in told)
    assert any("spared: FAIL" in text for text in told)
    assert "selectivity >= 0.3: 0.150 [0.100, 0.200]" in told
    assert len(chart.to_dict()["concat"]) == 2
    with pytest.raises(UserError, match="no gate was judged by a number"):
        figures.gates(judged[2:])


def test_changes_are_numbered_as_they_are_named() -> None:
    changes = [change("base_accuracy", -0.2), change("base_accuracy", 0.1, concept="law", decided=False)]
    chart = figures.changes(comparison() | {"changes": changes})
    told = words(chart)
    assert "What changed: 0 improved, 1 worsened, 1 noise" in told
    assert "1 ▼ sports: accuracy 50.0 → 30.02 ● law: accuracy 50.0 → 60.0" in told, "two lines of one text"
    lines = chart.to_dict()["datasets"]["lines"]
    assert [line["value"] for line in lines] == pytest.approx([50.0, 30.0, 50.0, 60.0])
    with pytest.raises(UserError, match="nothing was measured in both"):
        figures.changes(comparison() | {"changes": []})


def test_ranges_that_moved_are_those_of_the_concept_asked_for() -> None:
    document = comparison()
    (row,) = document["movements"]
    other = row | {"concept": "law", "neuron": 8, "lower_after": 0.0, "upper_after": 2.0, "state": "moved"}
    document |= {"movements": [row, other]}
    told = words(figures.moved_ranges(document))
    assert {"Ranges of sports at resid_post.1", "1 neuron 7: vanished", "before", "after"} <= {*told}
    chart = figures.moved_ranges(document, "law")
    assert "1 neuron 8: moved" in words(chart)
    ranges = {part["when"]: (part["low"], part["high"]) for part in chart.to_dict()["datasets"]["ranges"]}
    assert ranges == {"before": (-2.0, 2.0), "after": (-1.0, 1.0)}, "stds from the mean before"
    with pytest.raises(UserError, match=r"no range of concept 'lew' moved\. Did you mean 'law'\?"):
        figures.moved_ranges(document, "lew")
    with pytest.raises(UserError, match=r"no range of site 'resid_post\.2' moved"):
        figures.moved_ranges(document, site="resid_post.2")


def test_neurons_that_moved_have_a_panel_each() -> None:
    document = comparison()
    (row,) = document["farthest"]
    document |= {"farthest": [row, row | {"neuron": 9, "wasserstein": None}]}
    told = words(figures.moved_neurons(document))
    assert [text for text in told if text.startswith("resid_post.1:")] == ["resid_post.1:9", "resid_post.1:7"]
    assert "on sports, distance 1.50" in told
    assert {"before", "after"} <= {*told}
    for draw in (figures.moved_neurons, figures.moved_ranges):
        with pytest.raises(UserError, match="neurons were not compared"):
            draw(document | {"farthest": [], "movements": []})


def test_the_trend_goes_from_audit_to_audit(audits: list[Path]) -> None:
    chart = figures.trends([*audits, read_json(audits[0] / "report/audit.json")]).to_dict()
    assert [panel["title"]["text"] for panel in chart["concat"]] == [
        "accuracy, unedited",
        "selectivity",
        "drop on the others",
    ]
    known = main_numbers(read_json(audits[0] / "report/audit.json"))["accuracy"]
    assert known is not None
    points = chart["datasets"]["audits-0"]
    assert [(point["place"], point["current"]) for point in points] == [(1, False), (2, False), (3, True)]
    assert [point["value"] for point in points] == pytest.approx([100 * known] * 3)
    with pytest.raises(UserError, match="no audit to draw"):
        figures.trends([])


def test_a_comparison_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(comparison() | {"schema_version": SCHEMA_VERSION}))
    assert figures.changes(tmp_path).to_dict() == figures.changes(str(tmp_path)).to_dict()
    assert figures.changes(tmp_path).to_dict() == figures.changes(comparison()).to_dict()
    with pytest.raises(UserError, match=r"holds no comparison.*neuronlens compare"):
        figures.changes(tmp_path / "nowhere")


def test_every_chart_of_a_comparison_can_be_kept() -> None:
    drawn = figures.drawings_between(comparison())
    assert set(drawn) == {"changes.svg", "neurons.svg", "ranges-resid_post.1-1-sports.svg"}
    assert drawn["changes.svg"] == svg_file(figures.changes(comparison()))
    assert figures.drawings_between(comparison() | {"changes": [], "farthest": [], "movements": []}) == {}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text(name: str) -> None:
    document = comparison(name, name)
    for chart in (
        figures.changes(document),
        figures.moved_ranges(document),
        figures.moved_neurons(document),
        figures.gates([gate(name, "PASS")]),
    ):
        told = " ".join(words(chart))
        assert "\u202e" not in told
        assert "\x00" not in told
