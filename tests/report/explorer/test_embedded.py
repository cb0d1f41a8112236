"""The explorer's data are the artifacts' numbers, for every site, neuron and concept, and what is left out is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.artifact import read_json, read_table, write_table
from neuronlens.report.document import audit_document
from neuronlens.report.explorer import embedded as module
from neuronlens.report.explorer.details import ENDS, TEXT, excerpt
from neuronlens.report.explorer.embedded import MEASURED, NONE, embedded, explorer
from neuronlens.report.page import html
from neuronlens.streaming.histogram import BINS
from tests.report.artifacts import CONCEPTS, config, make_audit, results_table
from tests.report.unpacked import Reader

SITES = ("resid_post.0", "mlp_post.1")
Row = Mapping[str, Any]
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Unpacked:
    """explorer.json, unpacked: everything by (site, neuron, concept) or by (site, neuron)."""

    names: list[Key]
    numbers: dict[str, dict[Key, float]]
    alike: dict[Key, int]
    selected: dict[Key, int]
    histograms: dict[tuple[str, int], tuple[float, float, Any]]
    examples: dict[tuple[str, int], list[list[tuple[int, float]]]]
    texts: list[list[Any]]


def unpacked(found: Row) -> Unpacked:
    count, concepts = found["neurons"]["listed"], found["concepts"]
    rows = count * len(concepts)
    reader = Reader(found["rows"])
    neurons = [
        (found["sites"][site], int(number))
        for site, number in zip(reader.take(np.uint16, count), reader.take(np.int32, count), strict=True)
    ]
    names = [(*neuron, concept) for neuron in neurons for concept in concepts]
    numbers = {name: dict(zip(names, reader.take_decimals(rows).tolist(), strict=True)) for name in found["columns"]}
    alike, selected = (
        dict(zip(names, reader.take(kind, rows).tolist(), strict=True)) for kind in (np.uint16, np.uint8)
    )
    assert not reader.content
    reader, drawn = Reader(found["histograms"]), found["neurons"]["histograms"]
    places, low, high = (reader.take(kind, drawn) for kind in (np.int32, np.float32, np.float32))
    counts = reader.take(np.uint32, drawn * len(concepts) * BINS).reshape(drawn, len(concepts), BINS)
    histograms = {neurons[place]: (low[i], high[i], counts[i]) for i, place in enumerate(places)}
    reader, told = Reader(found["examples"]), found["neurons"]["examples"]
    places, deep = reader.take(np.int32, told), int(reader.take(np.uint8, 1)[0])
    text = reader.take(np.int32, told * 2 * deep).reshape(told, 2, deep).tolist()
    value = reader.take_decimals(told * 2 * deep).reshape(told, 2, deep).tolist()
    examples = {
        neurons[place]: [list(zip(*end, strict=True)) for end in zip(text[i], value[i], strict=True)]
        for i, place in enumerate(places)
    }
    return Unpacked(names, numbers, alike, selected, histograms, examples, json.loads(Reader(found["texts"]).content))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("audit")
    texts = [f"row {place} begins here, {'and goes on ' * 20}, and ends at {place}" for place in range(72)]
    return make_audit(folder, config(), results_table(sites=SITES), gain=0.3, texts=texts)


@pytest.fixture(scope="module")
def audit(inputs: dict[str, Path]) -> dict[str, Any]:
    return audit_document(config(), inputs)


@pytest.fixture(scope="module")
def whole(audit: dict[str, Any], inputs: dict[str, Path]) -> Unpacked:
    return unpacked(explorer(audit, inputs))


def digits(value: float) -> str:
    return f"{value:.2e}"


def test_every_row_shows_the_digits_of_the_statistics(inputs: dict[str, Path], whole: Unpacked) -> None:
    rows = read_table(inputs["fit"] / "statistics.parquet").to_pylist()
    assert len(rows) == len(SITES) * 8 * len(CONCEPTS) == len(whole.names)
    assert whole.names == sorted(whole.names, key=lambda name: (SITES.index(name[0]), *name[1:]))
    for row in rows:
        name = row["site"], row["neuron"], row["concept"]
        for column in MEASURED:
            assert digits(whole.numbers[column][name]) == digits(row[column])


def test_the_largest_overlap_is_that_of_any_pair(inputs: dict[str, Path], whole: Unpacked) -> None:
    pairs = read_table(inputs["fit"] / "overlap.parquet").to_pylist()
    for name in whole.names:
        site, neuron, concept = name
        own = {
            row["other"] if row["concept"] == concept else row["concept"]: row["histogram_overlap"]
            for row in pairs
            if (row["site"], row["neuron"]) == (site, neuron) and concept in (row["concept"], row["other"])
        }
        assert len(own) == len(CONCEPTS) - 1
        assert digits(whole.numbers["overlap"][name]) == digits(max(own.values()))
        assert whole.alike[name] == min(
            CONCEPTS.index(other) for other, value in own.items() if value == max(own.values())
        )


def test_who_selects_a_neuron_and_its_doses(inputs: dict[str, Path], audit: dict[str, Any], whole: Unpacked) -> None:
    ranges = [
        row
        for row in read_table(inputs["fit"] / "ranges.parquet").to_pylist()
        if (row["range"], row["tau"], row["top"]) == ("gaussian", 2.0, 0.3)
    ]
    assert [setting["saliency"] for setting in audit["settings"]] == ["mean_abs", "d_prime"]
    doses = {(row["site"], row["neuron"], row["concept"]): row for row in ranges}
    for bit, saliency in enumerate(("mean_abs", "d_prime")):
        expected = {(row["site"], row["neuron"], row["concept"]) for row in ranges if row["saliency"] == saliency}
        assert {name for name, bits in whole.selected.items() if bits >> bit & 1} == expected != set()
    for name in whole.names:
        for column in ("dose_target", "dose_complement"):
            value = whole.numbers[column][name]
            assert digits(value) == digits(doses[name][column]) if name in doses else math.isnan(value)


def test_the_tuned_choice_selects_the_neurons_of_its_ranges(inputs: dict[str, Path], whole: Unpacked) -> None:
    """Of each concept the validation rows chose another share of the neurons, of which the audit made by hand has ranges for one."""
    chosen = {
        row["concept"]: row["top"]
        for row in read_table(inputs["evaluate"] / "chosen.parquet").to_pylist()
        if row["method"] == "tuned"
    }
    assert len(set(chosen.values())) == 3
    for site, neuron, concept in whole.names:
        own = whole.selected[site, neuron, concept]
        assert own >> 2 == (own & 1 if chosen[concept] == 0.3 else 0)
    assert any(bits >> 2 for bits in whole.selected.values())


def test_histograms_and_examples_are_those_of_the_fit(inputs: dict[str, Path], whole: Unpacked) -> None:
    assert len(whole.histograms) == len(whole.examples) == len(SITES) * 8
    for row in read_table(inputs["fit"] / "statistics.parquet").to_pylist():
        low, high, counts = whole.histograms[row["site"], row["neuron"]]
        assert (low, high) == (row["histogram_low"], row["histogram_high"])
        assert counts[CONCEPTS.index(row["concept"])].tolist() == row["histogram"]
    dataset = {row["row"]: row for row in read_table(inputs["prepare"] / "dataset.parquet").to_pylist()}
    for row in read_table(inputs["fit"] / "examples.parquet").to_pylist():
        text, value = whole.examples[row["site"], row["neuron"]][ENDS.index(row["end"])][row["place"]]
        assert digits(value) == digits(row["value"])
        concept, shown = whole.texts[text]
        assert CONCEPTS[concept] == dataset[row["row"]]["concept"]
        assert shown == excerpt(dataset[row["row"]]["text"])
        assert shown.endswith(str(row["row"]))
    assert len({json.dumps(text) for text in whole.texts}) == len(whole.texts), "a text is stored once"


def test_what_does_not_fit_is_left_out_from_the_lowest_d_prime_upwards(
    inputs: dict[str, Path], audit: dict[str, Any], whole: Unpacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    best: dict[tuple[str, int], float] = {}
    for row in read_table(inputs["fit"] / "statistics.parquet").to_pylist():
        name = row["site"], row["neuron"]
        best[name] = max(best.get(name, 0.0), row["d_prime"])
    full = {name: len(part) for name, part in explorer(audit, inputs).items() if isinstance(part, str)}
    room = full["rows"] * 3 // 4, (full["histograms"] + full["examples"] + full["texts"]) // 4
    monkeypatch.setattr(module, "CHARACTERS", room[0])
    monkeypatch.setattr(module, "DETAILS", room[1])
    found = explorer(audit, inputs)
    part = unpacked(found)
    counts = found["neurons"]
    assert counts["all"] == len(best) > counts["listed"] > counts["histograms"] > 0
    assert counts["listed"] > counts["examples"] > 0
    assert len(found["rows"]) <= room[0]
    assert sum(len(found[name]) for name in full) <= sum(room)
    for kept in ({name[:2] for name in part.names}, set(part.histograms), set(part.examples)):
        assert min(best[name] for name in kept) >= max(best[name] for name in set(best) - kept)
    for name in part.names:
        assert part.selected[name] == whole.selected[name]
        assert part.numbers["mean"][name] == whole.numbers["mean"][name]
    shown = html(audit, found)
    assert f"Left out are {counts['all'] - counts['listed']} neurons" in shown
    assert f"those of the {counts['histograms']} neurons of highest d'" in shown


def test_an_audit_without_examples_or_a_tuned_method_has_an_explorer(tmp_path: Path) -> None:
    inputs = make_audit(tmp_path, config(), results_table(sites=SITES))
    (inputs["fit"] / "examples.parquet").unlink()
    audit = audit_document(config(), inputs)
    found = explorer(audit, inputs)
    assert found["neurons"]["examples"] == 0
    assert found["selections"] == ["reference", "contrastive"]
    assert unpacked(found).texts == []
    assert "This audit keeps no top examples" in html(audit, found)


def test_an_audit_of_whole_neurons_alone_has_no_ranges_to_show(tmp_path: Path) -> None:
    import pyarrow.compute as pc

    settings = config("interventions.ranges=[full]", "interventions.controls=[]")
    inputs = make_audit(tmp_path, settings, results_table().filter(pc.field("range") == "full"))
    audit = audit_document(settings, inputs)
    found = explorer(audit, inputs)
    shown = unpacked(found)
    assert found["tau"] is None
    assert any(shown.selected.values())
    assert all(math.isnan(value) for value in shown.numbers["dose_target"].values())
    assert 'data-column="lower"' not in html(audit, found)


def test_the_effects_are_those_of_what_selects_neurons(audit: dict[str, Any], inputs: dict[str, Path]) -> None:
    found = explorer(audit, inputs)
    shown = json.loads(embedded(audit, found))
    effects = json.loads(Reader(shown["effects"]).content)
    assert {(found["selections"][row[2]], row[3]) for row in effects} == {
        ("reference", "range masking"),
        ("reference", "whole neurons"),
        ("contrastive", "range masking"),
        ("contrastive", "whole neurons"),
        ("tuned", "tuned ranges"),
    }
    assert len(effects) == 5 * len(SITES) * len(CONCEPTS)


def test_a_concept_without_another_overlaps_with_none(
    audit: dict[str, Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    file = inputs["fit"] / "overlap.parquet"
    fit = tmp_path / "fit"
    fit.mkdir()
    for path in inputs["fit"].glob("*.parquet"):
        write_table(fit / path.name, read_table(path))
    write_table(fit / "overlap.parquet", pq.read_table(file).filter(np.zeros(len(read_table(file)), dtype=bool)))
    found = unpacked(explorer(audit, inputs | {"fit": fit}))
    assert set(found.alike.values()) == {NONE}
    assert all(math.isnan(value) for value in found.numbers["overlap"].values())


def test_the_page_can_be_made_again_from_the_folder_of_the_report(report_folder: Path) -> None:
    made = html(read_json(report_folder / "audit.json"), read_json(report_folder / "explorer.json"))
    assert made == (report_folder / "report.html").read_text(encoding="utf-8")


@given(st.text(max_size=400))
def test_an_excerpt_is_one_short_line_of_the_text(text: str) -> None:
    shown = excerpt(text)
    assert len(shown) <= TEXT
    assert "\n" not in shown
    if text.isascii() and text.isprintable():
        line = " ".join(text.split())
        head, gap, tail = shown.partition(" … ")
        assert line.startswith(head) and line.endswith(tail) if gap else shown == line
