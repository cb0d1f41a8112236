"""The pages' charts for notebooks and files: complete without a page around them, inert, and the same for the same audit."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow.compute as pc
import pytest

import neuronlens
from neuronlens import NeuronCard, figures
from neuronlens.activations.store import read_activations
from neuronlens.artifact import read_json, read_table
from neuronlens.errors import SiteError, UserError
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.report.table import KIND_NAMES
from tests import planted
from tests.figures.drawn import SITES, finished, words
from tests.report.artifacts import CONCEPTS, results_table

HOSTILE = ("</text><script>alert(1)</script>", "a\u202eb", "nu\x00l", "{{7*7}}", "x" * 300, "datum.label")
CHARTS: dict[str, Callable[[Any], Any]] = {
    "effects": figures.effects,
    "concepts": figures.concepts,
    "frontier": figures.frontier,
    "cost": figures.cost,
    "heatmap": figures.heatmap,
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("audits") / "one")


@pytest.fixture(scope="module")
def card(planted_audit: Path) -> NeuronCard:
    return NeuronCard.read(planted_audit, planted.SITES[0], 0)


@pytest.mark.parametrize("name", CHARTS)
def test_the_folder_and_the_document_give_one_chart(name: str, audit: Path) -> None:
    draw = CHARTS[name]
    document = read_json(audit / "report/audit.json")
    assert draw(audit).to_dict() == draw(str(audit)).to_dict() == draw(document).to_dict()


@pytest.mark.parametrize("name", [*CHARTS, "histogram", "histograms", "quantile_plot"])
def test_altair_saves_it_and_a_notebook_shows_it(name: str, audit: Path, card: NeuronCard, tmp_path: Path) -> None:
    chart = CHARTS[name](audit) if name in CHARTS else getattr(figures, name)(card)
    chart.save(tmp_path / "chart.svg")
    chart.save(tmp_path / "chart.png")
    drawn = (tmp_path / "chart.svg").read_text()
    assert len(list(ET.fromstring(drawn).iter())) > 50
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    with alt.renderers.enable("svg"):
        shown = chart._repr_mimebundle_()
    assert words(shown["image/svg+xml"]) == words(drawn)
    with alt.renderers.enable("png"):
        png = chart._repr_mimebundle_()[0]["image/png"]
    assert (png if isinstance(png, bytes) else base64.b64decode(png)).startswith(b"\x89PNG")


def test_marks_are_explained_where_no_page_does(audit: Path, card: NeuronCard) -> None:
    told = words(figures.effects(audit))
    assert f"Drop on a concept and on the others, {SITES[1]}" in told
    assert {KIND_NAMES[kind] for kind in ("gaussian", "full", "random_neurons", "tuned")} <= {*told}
    assert KIND_NAMES["leace"] not in told, "what is not drawn needs no explanation"
    assert {"width 2", "width 2.5", "range masking", "whole neurons"} <= {*words(figures.frontier(audit))}
    assert {"the concept", "all others", "brick"} <= {*words(figures.histogram(card))}
    (numbers,) = [text for text in words(figures.concepts(audit)) if "1 arts" in text]
    assert "6 sports" in numbers


def test_long_names_stand_whole_beside_their_numbers(tmp_path: Path) -> None:
    names = tuple(f"a concept of twenty {place:02d}" for place in range(24))
    told = " ".join(words(figures.concepts(finished(tmp_path / "long", names))))
    assert [name for place, name in enumerate(names, 1) if f"{place} {name}" not in told] == []


def test_every_site_and_ranking_can_be_drawn(audit: Path) -> None:
    shallow, deep = (figures.effects(audit, site).to_dict() for site in SITES)
    assert shallow != deep == figures.effects(audit).to_dict()
    assert (
        figures.frontier(audit, SITES[0], "mean_abs").to_dict()
        != figures.frontier(audit, SITES[0], "d_prime").to_dict()
    )
    assert figures.concepts(audit, "full/mean_abs/0.3/zero/all").to_dict() != figures.concepts(audit).to_dict()


def test_what_was_measured_without_an_audit_can_be_drawn(audit: Path) -> None:
    """The table of `evaluate_methods` has the columns of results.parquet."""
    table = results_table(sites=SITES).filter(pc.field("role") == "sweep")
    chart = figures.methods(table)
    told = words(chart)
    assert f"Drop on a concept and on the others, {SITES[1]}" in told
    assert {"range masking", "whole neurons"} <= {*told}
    assert any(text.startswith("1 gaussian-2/mean_abs/0.3/zero/all") for text in told)
    rows = table.filter(pc.field("site") == SITES[1]).to_pylist()
    names = list(dict.fromkeys(row["method"] for row in rows))
    drawn = chart.to_dict()["datasets"]["methods"]
    for name, point in zip(names, drawn, strict=True):
        own = [100 * row["target_accuracy_drop"] for row in rows if row["method"] == name]
        assert point["target"] == pytest.approx(sum(own) / len(own))
        assert point["target_low"] < point["target"] < point["target_high"]
    single = figures.methods(table.filter(pc.field("concept") == CONCEPTS[0]), SITES[0])
    assert single.to_dict()["datasets"]["methods"][0]["target_low"] is None, "one concept has no interval over concepts"


def test_a_neuron_that_was_just_fitted_is_drawn_as_its_card_is(planted_audit: Path, card: NeuronCard) -> None:
    found = read_activations(planted_audit / "extract", read_table(planted_audit / "prepare/dataset.parquet"))
    fitted = fit_statistics(found, planted.SITES[0])
    assert figures.activations(fitted, card.neuron).to_dict()["concat"] == figures.histograms(card).to_dict()["concat"]
    ours, stored = (
        chart.to_dict()["datasets"] for chart in (figures.activations(fitted, card.neuron), figures.histograms(card))
    )
    assert {name: rows for name, rows in ours.items() if name.startswith("bins")} == {
        name: rows for name, rows in stored.items() if name.startswith("bins")
    }
    for name in (name for name in ours if name.startswith("band")):
        assert ours[name] == [pytest.approx(row, rel=1e-5, abs=1e-6) for row in stored[name]]


def test_each_concept_of_a_neuron_has_its_own_panel(card: NeuronCard) -> None:
    chart = figures.histograms(card, columns=2).to_dict()
    assert [panel["title"] for panel in chart["concat"]] == sorted(planted.CONCEPTS)
    for panel, part in zip(chart["concat"], card.concepts, strict=True):
        alone = figures.histogram(card, part.concept).to_dict()["datasets"]
        for layer in panel["layer"]:
            name = layer["data"]["name"]
            assert chart["datasets"][name] == alone[name.partition("-")[0]]


def test_a_heatmap_has_a_cell_for_each_site_and_concept(audit: Path) -> None:
    document = read_json(audit / "report/audit.json")
    chart = figures.heatmap(audit)
    told = words(chart)
    assert {*SITES, *CONCEPTS} <= {*told}
    cells = {(cell["row"], cell["column"]): cell["value"] for cell in chart.to_dict()["datasets"]["cells"]}
    assert len(cells) == len(SITES) * len(CONCEPTS)
    tuned = {
        (row["concept"], row["site"]): row["selectivity"]
        for row in document["results"]
        if (row["method"], row["role"]) == ("tuned", "chosen")
    }
    for (row, column), value in cells.items():
        assert value == pytest.approx(100 * tuned[sorted(CONCEPTS)[row - 1], SITES[column - 1]])
        assert f"{value:.1f}".replace("-", "\N{MINUS SIGN}") in told


def test_mistakes_name_what_there_is(audit: Path, planted_audit: Path, card: NeuronCard) -> None:
    with pytest.raises(SiteError, match=r"'mlp_post\.2' was not audited\. Did you mean 'mlp_post\.1'\?"):
        figures.effects(audit, "mlp_post.2")
    with pytest.raises(UserError, match=r"no method 'tune'\. Did you mean 'tuned'\?"):
        figures.concepts(audit, "tune")
    with pytest.raises(UserError, match=r"no ranking 'dprime'\. Did you mean 'd_prime'\?"):
        figures.frontier(audit, saliency="dprime")
    with pytest.raises(UserError, match=r"no heatmap of 'overlaps'\. Did you mean 'overlap'\?"):
        figures.heatmap(audit, "overlaps")
    with pytest.raises(UserError, match="one point, and no frontier"):
        figures.frontier(planted_audit)
    with pytest.raises(UserError, match="unknown concept 'sport'"):
        figures.histogram(card, "sport")
    with pytest.raises(UserError, match="no such folder"):
        figures.effects(audit / "nowhere")


def test_there_is_a_drawing_of_each_kind_for_every_site_and_the_same_each_time(audit: Path) -> None:
    drawn = figures.drawings(audit)
    kinds = {"effects", "concepts", "frontier", "cost"}
    assert {name.partition("-")[0] for name in drawn} == kinds | {"heatmap"}
    for site in SITES:
        assert {name.partition("-")[0] for name in drawn if site in name} == kinds
    assert figures.drawings(read_json(audit / "report/audit.json")) == drawn


def test_drawings_are_inert_whatever_concepts_are_called(tmp_path: Path) -> None:
    drawn = figures.drawings(finished(tmp_path / "hostile", HOSTILE))
    assert drawn
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg", "without its namespace a browser shows no image"
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "path", "line", "circle", "text", "rect", "tspan"}
        assert not [
            name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name
        ]
    told = " ".join(words(next(svg for name, svg in drawn.items() if name.startswith("concepts"))))
    assert "a\\u202eb" in told
    assert "{{7*7}}" in told


def test_the_module_is_part_of_the_package_and_imported_at_first_use() -> None:
    assert neuronlens.figures is figures
    assert "figures" in dir(neuronlens)
