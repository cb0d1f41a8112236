"""What the fit knows of a site: NumPy's numbers on the fit rows and on nothing else, and scores that rank what they should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fit
from neuronlens.activations.ordinary import Ordinary
from neuronlens.errors import DatasetError
from neuronlens.ranges.saliency import SALIENCIES, auroc_scores, fit_probe, random_scores
from neuronlens.ranges.statistics import QUANTILES, fit_rows, fit_statistics, no_tokens
from neuronlens.sites import Site
from neuronlens.streaming import blocks
from neuronlens.streaming.histogram import BINS
from tests.ranges.sample import (
    CONCEPTS,
    SITE,
    activations,
    members,
    of_values,
    others,
    separation_scores,
    statistics,
    tokens,
)


@pytest.mark.parametrize("rows", ["correct", "all"])
def test_statistics_are_numpys_on_the_fit_rows(rows):
    found = activations()
    ours = fit_statistics(found, SITE, rows=rows)
    assert ours.concepts == CONCEPTS
    assert ours.width == 12
    for at, concept in enumerate(CONCEPTS):
        assert ours.index(concept) == at
        own, rest = (part(found, concept, rows).astype(np.float64) for part in (members, others))
        np.testing.assert_array_equal(ours.values[at], members(found, concept, rows))
        np.testing.assert_array_equal(ours.complement(concept), others(found, concept, rows))
        for part, values in ((ours.moments[at], own), (ours.rest[at], rest)):
            assert part.n == values.shape[1]
            np.testing.assert_allclose(part.mean, values.mean(1), rtol=1e-12)
            np.testing.assert_allclose(part.std, values.std(1), rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(ours.quantiles[at], np.quantile(own, QUANTILES, axis=1), rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(5, 60), st.integers(2, 4), st.sampled_from([8, 2**20]))
def test_every_statistic_is_scipys_one_neuron_after_the_other(seed, rows, concepts, block):
    """To 1e-10: of normal, skewed and rounded neurons, of one with mean 2000 and std 0.5, of a tiny one and of one with an outlier."""
    generator = np.random.default_rng(seed)
    count = rows * concepts
    concept = np.array([f"c{i}" for i in generator.permutation(count) % concepts])
    values = generator.normal(generator.normal(size=(6, 1)), 1, size=(6, count))
    values[1] = np.exp(values[1])
    values[2] = np.round(values[2], 1) + 0.1 * (np.arange(count) % 2)
    values[3] = 2000 + 0.5 * values[3]
    values[4] *= 1e-5
    values[5, generator.integers(count)] = 1e4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block)
        found, ours = fit.vectorised(of_values(values, concept), SITE)
    edges = np.linspace(found.low, found.high, BINS + 1, axis=1)
    fit.check(ours, fit.by_scipy(found.values, edges), np.arange(6))


def test_the_test_split_is_never_looked_at():
    found = activations()
    poisoned = found.values[SITE].copy()
    poisoned[:, [split == "test" for split in found.split]] = 1e6
    other = fit_statistics(dataclasses.replace(found, values={SITE: poisoned}), SITE)
    same = fit_statistics(found, SITE)
    for ours, theirs in zip(same.moments + same.rest, other.moments + other.rest, strict=True):
        np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(same.high, other.high)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1.0, 1e-3, 2000.0]))
def test_the_histogram_is_numpys_per_neuron(seed, count, scale):
    """On edges that a neuron's concepts share; every value is in exactly one bin."""
    found = activations(seed, neurons=4, per=4 + count % 40, constant=())
    found = dataclasses.replace(found, values={SITE: found.values[SITE] * np.float32(scale)})
    ours = fit_statistics(found, SITE, rows="all")
    for neuron in range(4):
        # exact, as the bins are powers of two wide
        edges = np.linspace(ours.low[neuron], ours.high[neuron], BINS + 1)
        everyone = ours.histogram[:, :, neuron].sum(axis=0)
        assert everyone[0] > 0
        assert everyone[BINS // 2 :].sum() > 0, "more than half of the bins are of use"
        for at, concept in enumerate(CONCEPTS):
            own = members(found, concept, "all").astype(np.float64)
            expected, _ = np.histogram(own[neuron], edges)
            assert expected.sum() == own.shape[1]
            np.testing.assert_array_equal(ours.histogram[at, :, neuron], expected)


def test_the_histogram_of_a_constant_neuron_holds_all_rows_in_one_bin():
    ours = statistics(constant=(4,))
    for at, part in enumerate(ours.moments):
        assert ours.histogram[at, 0, 4] == ours.histogram[at, :, 4].sum() == part.n
    assert ours.low[4] == np.float32(0.1)


def test_a_concept_with_fewer_than_two_rows_is_named():
    found = activations()
    wrong = dataclasses.replace(found, correct=np.array([name != "b" for name in found.concept]))
    with pytest.raises(DatasetError) as caught:
        fit_statistics(wrong, SITE)
    assert (caught.value.where, caught.value.cure) == ("fit.rows", "Use fit.rows=all, or add rows.")
    assert "concept 'b' has 0 fit rows predicted right by the model - a range needs at least two" in str(caught.value)
    with pytest.raises(DatasetError) as caught:
        fit_rows(dataclasses.replace(found, split=["test"] * len(found)), "all", CONCEPTS)
    assert caught.value.cure == "Add rows."
    assert "concept 'a' has 0 fit rows - a range needs at least two" in str(caught.value)
    assert len(fit_rows(wrong, "all", CONCEPTS)["b"]) == 20
    two, three = (fit_rows(found, "all", concepts) for concepts in (CONCEPTS[:2], CONCEPTS))
    assert {name: rows.tolist() for name, rows in two.items()} == {name: three[name].tolist() for name in CONCEPTS[:2]}


def test_every_score_is_the_saliencys_own_on_the_fit_rows():
    found, text = activations(), tokens()
    ours = fit_statistics(found, SITE, ordinary=text, seed=3)
    parts = [members(found, name) for name in CONCEPTS]
    expected = {
        **{
            name: np.stack([score(own, rest) for own, rest in zip(ours.moments, ours.rest, strict=True)])
            for name, score in SALIENCIES.items()
        },
        "auroc": auroc_scores(parts),
        "probe": fit_probe(parts, 3).scores,
        "separation": np.stack(
            [separation_scores(members(found, name), others(found, name), text.without(name)) for name in CONCEPTS]
        ),
        "random": np.stack([random_scores(12, 3, SITE, name) for name in CONCEPTS]),
    }
    for name, scores in expected.items():
        np.testing.assert_array_equal(ours.saliencies(name), scores, err_msg=name)
        for at, concept in enumerate(CONCEPTS):
            np.testing.assert_array_equal(ours.saliency(name, concept), scores[at], err_msg=name)


def contrasts(per=200):
    """Four neurons: one drives concept a up, one down, one is large on all rows, one is noise."""
    generator = np.random.default_rng(0)
    concept = np.repeat(CONCEPTS, per)
    values = generator.normal(size=(4, 3 * per))
    values[0] += 3 * (concept == "a")
    values[1] -= 3 * (concept == "a")
    values[2] = 50 + 0.01 * values[2]
    return of_values(values, concept)


@pytest.mark.parametrize("name", ["probeless", "d_prime", "auroc", "probe", "separation"])
def test_a_score_with_contrast_prefers_the_neurons_that_tell_the_concept(name):
    scores = fit_statistics(contrasts(), SITE).saliency(name, "a")
    assert set(np.argsort(-scores)[:2]) == {0, 1}


def test_a_score_without_contrast_prefers_large_neurons():
    ours = fit_statistics(contrasts(), SITE)
    assert ours.saliency("mean_abs", "a").argmax() == ours.saliency("mean", "a").argmax() == 2
    assert ours.saliency("mean", "a").argmin() == 1


def test_separation_does_not_count_what_ordinary_tokens_do_as_well():
    """Neuron 0 is told from the other concepts but not from ordinary text, neuron 1 from both."""
    generator = np.random.default_rng(1)
    text = generator.normal(size=(4, 600)).astype(np.float32)
    text[0] += 3
    ours = fit_statistics(contrasts(), SITE, ordinary=Ordinary(text, [""] * 600))
    scores, without = ours.saliency("separation", "a"), fit_statistics(contrasts(), SITE).saliency("separation", "a")
    assert without[0] > 0.8
    assert scores[0] < 0.2
    assert scores[1] == pytest.approx(without[1], abs=0.05)


def test_tokens_in_rows_of_a_concept_do_not_count_against_it():
    """Tokens like the concept's own lower the score of another concept's rows alone."""
    own = contrasts().values[SITE][:, :200]
    text = Ordinary(own, ["a"] * 200)
    ours, bare = (fit_statistics(contrasts(), SITE, ordinary=part) for part in (text, None))
    np.testing.assert_array_equal(ours.saliency("separation", "a"), bare.saliency("separation", "a"))
    moved = fit_statistics(contrasts(), SITE, ordinary=Ordinary(own, ["b"] * 200))
    assert (moved.saliency("separation", "a") < 0.1).all()


def test_a_site_read_at_the_pooled_position_alone_has_no_tokens():
    assert statistics(with_tokens=False).ordinary.without("a").shape == no_tokens(12).values.shape == (12, 0)


def test_draws_depend_on_seed_site_and_purpose_only():
    def drawn(ours, *purpose):
        return ours.draw(*purpose).random(5).tolist()

    plain = statistics()
    assert drawn(plain, "a", 1) == drawn(statistics(seed=7), "a", 1), "not on the rows"
    others_ = [
        drawn(statistics(draws=1), "a", 1),
        drawn(plain, "b", 1),
        drawn(plain, "a", 2),
        drawn(dataclasses.replace(plain, site=Site(2, "resid_post")), "a", 1),
    ]
    assert drawn(plain, "a", 1) not in others_
    # what was drawn once is drawn again by every later release, or audits of the same inputs would differ
    np.testing.assert_allclose(drawn(plain, "a", 1)[:2], [0.05900505, 0.6371448], rtol=1e-6)


def test_there_is_no_saliency_of_another_name():
    with pytest.raises(ValueError, match="no saliency is called 'Random'"):
        statistics().saliencies("Random")


def test_scores_that_draw_lots_follow_the_seed():
    one, same, other = statistics(), statistics(), statistics(draws=1)
    np.testing.assert_array_equal(one.saliencies("random"), same.saliencies("random"))
    assert not np.array_equal(one.saliencies("random"), other.saliencies("random"))
    np.testing.assert_array_equal(one.saliencies("separation"), other.saliencies("separation"))


def test_a_probe_that_has_not_settled_is_noted_once(monkeypatch):
    ours = statistics()
    ours.saliencies("d_prime")
    assert ours.notes == []
    monkeypatch.setattr("neuronlens.ranges.saliency.PROBE_TOLERANCE", 0.0)
    ours.saliencies("probe")
    ours.saliency("probe", "a")
    assert len(ours.notes) == 1
    assert "had not settled after 100 passes" in ours.notes[0]
