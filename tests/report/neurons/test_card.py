"""The card of a neuron says what the tables of the audit say, and of a planted neuron what was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuronlens.activations.store import read_activations
from neuronlens.artifact import read_table
from neuronlens.errors import ArtifactError, SiteError, UserError
from neuronlens.ranges.saliency import top_set
from neuronlens.report.neurons.card import NeuronCard
from neuronlens.report.neurons.place import parse_place
from neuronlens.sites import Site
from tests import planted

SITE = planted.SITES[0]
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def card(planted_audit: Path) -> NeuronCard:
    """Of the neuron that serves `apple` and `brick`."""
    return NeuronCard.read(planted_audit, SITE, planted.neuron_of("apple"))


def rows(audit: Path, table: str, **wanted: object) -> list[Row]:
    """Rows of a table of the fit."""
    found = read_table(audit / f"fit/{table}.parquet").to_pylist()
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def test_a_planted_neuron_serves_its_two_concepts(card: NeuronCard) -> None:
    assert [part.concept for part in card.concepts] == sorted(planted.CONCEPTS)
    for concept, (low, high) in zip(("apple", "brick"), planted.INTERVALS, strict=True):
        assert low < card.concept(concept).mean < high
        assert card.concept(concept).score("mean_abs").rank == 1
    assert all(abs(part.mean) < 1e-5 for part in card.concepts if part.concept not in ("apple", "brick"))
    (sets,) = card.top_sets
    assert sets.concepts == ("apple", "brick")
    assert card.most_selective == "brick"
    assert {(row["concept"], row["kind"]) for row in card.effects} == {
        (concept, kind) for concept in ("apple", "brick") for kind in ("gaussian", "full")
    }


def test_its_examples_are_texts_that_drive_it_and_texts_that_do_not(card: NeuronCard) -> None:
    ends = {end: [row for row in card.examples if row.end == end] for end in ("highest", "lowest")}
    assert [row.place for row in ends["highest"]] == [row.place for row in ends["lowest"]] == [0, 1, 2, 3, 4]
    for row in ends["highest"]:
        assert row.concept == "brick"
        assert row.value == pytest.approx(planted.value_of(row.text.rsplit(" ", 1)[1]), abs=1e-5)
    assert all(abs(row.value) < 1e-5 and row.concept not in ("apple", "brick") for row in ends["lowest"])


def test_histograms_and_ranges_are_those_of_the_rows(planted_audit: Path, card: NeuronCard) -> None:
    found = read_activations(planted_audit / "extract", read_table(planted_audit / "prepare/dataset.parquet"))
    drawn = found.values[Site.parse(SITE)][card.neuron].astype(np.float64)
    fitted = np.array(found.split) == "fit"
    for part in card.concepts:
        own = drawn[fitted & (np.array(found.concept) == part.concept)]
        assert np.histogram(own, card.edges)[0].tolist() == list(part.counts)
        assert (part.n, part.mean) == (len(own), pytest.approx(own.mean()))
        assert part.gaussian is not None
        assert part.gaussian.setting == "mean ± 2 std"
        ends = (part.gaussian.lower[0], part.gaussian.upper[0])
        assert ends == pytest.approx((own.mean() - 2 * own.std(), own.mean() + 2 * own.std()), rel=1e-5)
    everyone = np.sum([part.counts for part in card.concepts], axis=0)
    assert everyone[0] > 0 < everyone[-1], "bins without any row at the ends would be drawn as empty space"


def test_a_range_is_the_stored_one_where_the_neuron_is_selected(planted_audit: Path, card: NeuronCard) -> None:
    (stored,) = rows(planted_audit, "ranges", site=SITE, concept="apple", range="gaussian", tau=2.0, role="sweep")
    range_ = card.concept("apple").gaussian
    assert range_ is not None
    assert (list(range_.lower), list(range_.upper)) == (stored["lower"], stored["upper"])
    assert (range_.dose_target, range_.dose_complement) == (stored["dose_target"], stored["dose_complement"])
    other = card.concept("drum").gaussian
    assert other is not None
    assert other.dose_target is None


@pytest.mark.parametrize("saliency", ["mean_abs", "probeless", "d_prime", "separation", "random"])
def test_ranks_are_places_in_the_order_of_top_sets(planted_audit: Path, saliency: str) -> None:
    """Of equal scores, which most neurons of this model have, the lower neuron comes first."""
    scores = {row["neuron"]: row[saliency] for row in rows(planted_audit, "statistics", site=SITE, concept="ferry")}
    order = top_set(np.array([scores[neuron] for neuron in range(planted.WIDTH)]), 1.0).tolist()
    for neuron in (0, 2, 17, 31):
        found = NeuronCard.read(planted_audit, SITE, neuron).concept("ferry").score(saliency)
        assert (found.rank, found.value) == (order.index(neuron) + 1, scores[neuron])


def test_top_sets_and_overlaps_are_those_of_the_fit(planted_audit: Path) -> None:
    for neuron in (0, 1, 2, 3):
        card = NeuronCard.read(planted_audit, SITE, neuron)
        counted = {
            (row["saliency"], row["top"]): row["concepts"]
            for row in rows(planted_audit, "polysemanticity", site=SITE, neuron=neuron)
        }
        assert {(sets.saliency, sets.top): len(sets.concepts) for sets in card.top_sets if sets.concepts} == counted
        stored = rows(planted_audit, "overlap", site=SITE, neuron=neuron)
        assert [(pair.concept, pair.other, pair.histogram_overlap) for pair in card.overlaps] == [
            (row["concept"], row["other"], row["histogram_overlap"]) for row in stored
        ]


@pytest.mark.parametrize(
    "text", ["resid_post.3", "resid_post.3:", ":3", "resid_post.3:-1", "resid_post.3:x", "a:\u0663"]
)
def test_what_names_no_neuron_is_told(text: str) -> None:
    with pytest.raises(SiteError, match=r"names no neuron\. Write it as SITE:NEURON"):
        parse_place(text)


def test_a_place_is_a_site_and_a_number() -> None:
    assert parse_place("mlp_post.11:4096") == ("mlp_post.11", 4096)


def test_mistakes_name_what_there_is(planted_audit: Path, card: NeuronCard) -> None:
    with pytest.raises(SiteError, match=r"site 'mlp_post.7' was not audited. Did you mean 'mlp_post.1'\?"):
        NeuronCard.read(planted_audit, "mlp_post.7", 0)
    with pytest.raises(SiteError, match=f"site {SITE} has no neuron 32. Its neurons are 0 to 31."):
        NeuronCard.read(planted_audit, SITE, 32)
    with pytest.raises(UserError, match=r"unknown concept 'aple'. Did you mean 'apple'\?"):
        card.concept("aple")
    with pytest.raises(UserError, match=r"no saliency 'dprime' .* Did you mean 'd_prime'\?"):
        card.concept("apple").score("dprime")
    with pytest.raises(UserError, match=r"audi: no such folder. Did you mean '.*/audit'\?"):
        NeuronCard.read(planted_audit.with_name("audi"), SITE, 0)
    with pytest.raises(UserError, match="model: holds no finished audit"):
        NeuronCard.read(planted_audit.with_name("model"), SITE, 0)


def test_an_audit_without_examples_has_a_card_and_a_newer_one_has_none(planted_audit: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(planted_audit, tmp_path / "old"))
    (old / "fit/examples.parquet").unlink()
    assert NeuronCard.read(old, SITE, 0).examples == ()
    document = old / "report/audit.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"schema_version": 999}))
    with pytest.raises(ArtifactError, match="schema version 999 is newer than"):
        NeuronCard.read(old, SITE, 0)
