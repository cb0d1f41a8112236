"""An audit of a model whose answer is known: ranges erase one concept, whole neurons two, and the report says so."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuronlens.activations.store import read_activations
from neuronlens.artifact import read_table
from neuronlens.sites import Site
from tests import planted
from tests.planted import SITES


@pytest.fixture
def audit(planted_audit: Path) -> Path:
    return planted_audit


def results(audit: Path, site: str, kind: str) -> dict[str, dict[str, Any]]:
    """Concept -> its row of results.parquet."""
    table = read_table(audit / "evaluate/results.parquet").to_pylist()
    return {row["concept"]: row for row in table if (row["site"], row["range"]) == (site, kind)}


def accuracy_by_concept(audit: Path, site: str, method: str, edited: str) -> dict[str, float]:
    """Concept -> accuracy on its test rows while another concept's ranges are masked, from the single rows."""
    dataset = read_table(audit / "prepare/dataset.parquet").to_pylist()
    concept = {row["row"]: row["concept"] for row in dataset}
    rows = read_table(audit / f"evaluate/rows/site={site}.parquet").to_pylist()
    own = [row for row in rows if (row["method"], row["concept"]) == (method, edited)]
    return {
        name: float(np.mean([row["correct"] for row in own if concept[row["row"]] == name]))
        for name in planted.CONCEPTS
    }


@pytest.mark.parametrize("site", SITES)
def test_the_planted_neurons_are_what_they_are_said_to_be(audit: Path, site: str) -> None:
    dataset = read_table(audit / "prepare/dataset.parquet")
    found = read_activations(audit / "extract", dataset)
    words = {row["row"]: row["text"].rsplit(" ", 1)[1] for row in dataset.to_pylist()}
    expected = np.zeros((len(planted.PAIRS), len(found)))
    for place, (row, concept) in enumerate(zip(found.row, found.concept, strict=True)):
        expected[planted.neuron_of(concept), place] = planted.value_of(words[int(row)])
    np.testing.assert_allclose(found.values[Site.parse(site)][:3], expected, atol=1e-5)
    for at, name in enumerate(planted.CONCEPTS):
        own = expected[planted.neuron_of(name), np.array(found.concept) == name]
        low, high = planted.INTERVALS[at % 2]
        assert low < own.min() < low + 0.1
        assert high - 0.1 < own.max() < high
    assert found.correct.all()


@pytest.mark.parametrize("site", SITES)
def test_the_top_neuron_of_each_concept_is_its_planted_one(audit: Path, site: str) -> None:
    ranges = read_table(audit / "fit/ranges.parquet").to_pylist()
    for kind in ("gaussian", "full"):
        found = [(row["concept"], row["neuron"]) for row in ranges if (row["site"], row["range"]) == (site, kind)]
        assert found == [(name, planted.neuron_of(name)) for name in planted.CONCEPTS]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("concept", planted.CONCEPTS)
def test_ranges_erase_one_concept_and_whole_neurons_two(audit: Path, site: str, concept: str) -> None:
    ranged, whole = (results(audit, site, kind)[concept] for kind in ("gaussian", "full"))
    assert ranged["base_target_accuracy"] == ranged["base_complement_accuracy"] == 1
    assert ranged["target_accuracy_drop"] > 0.9
    assert ranged["complement_accuracy_drop"] < 0.02
    assert whole["target_accuracy_drop"] > 0.9
    assert whole["complement_accuracy_drop"] == pytest.approx(1 / (len(planted.CONCEPTS) - 1))

    partner = planted.partner(concept)
    others = [name for name in planted.CONCEPTS if name not in (concept, partner)]
    under_ranges = accuracy_by_concept(audit, site, ranged["method"], concept)
    under_whole = accuracy_by_concept(audit, site, whole["method"], concept)
    assert under_ranges[partner] == 1
    assert under_whole[partner] == 0
    assert all(found[name] == 1 for found in (under_ranges, under_whole) for name in others)


def test_the_audit_says_so(audit: Path) -> None:
    document = json.loads((audit / "report/audit.json").read_text())
    found = {(finding["claim"], finding["site"]): finding for finding in document["findings"]}
    claims = ("effect", "spares", "confidence", "selective", "control")
    assert {key: finding["verdict"] for key, finding in found.items()} == {
        ("known", None): "holds",
        **{(claim, site): "holds" for claim in claims for site in SITES},
    }
    page = html.unescape((audit / "report/report.html").read_text())
    for site in SITES:
        spares = found["spares", site]["sentence"]
        assert spares.startswith(
            "Range masking costs the other concepts 20.0 points [20.0, 20.0] less, compared with masking the same neurons whole."
        )
        assert found["selective", site]["sentence"] == (
            "Compared with masking the same neurons whole, range masking is more selective, by 20.0 points [20.0, 20.0]."
        )
        for claim in claims:
            assert found[claim, site]["sentence"] in page
    summary = (audit / "report/summary.md").read_text().splitlines()
    for claim in ("effect", "selective", "control"):
        assert f"- {document['claims'][claim]}: holds 2 (of 2 comparisons)" in summary
    spares = f"- {document['claims']['spares']}: holds 2 (of 2 comparisons); in confidence: holds 2 (of 2 comparisons)"
    assert spares in summary
    assert not any("Beware" in line for line in summary)
