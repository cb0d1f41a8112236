"""How neurons are ranked, and which ones make the top."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from neuronlens.errors import SiteError
from neuronlens.ranges import saliency as module
from neuronlens.ranges.saliency import (
    SALIENCIES,
    auroc_scores,
    d_prime,
    fit_probe,
    mean,
    mean_abs,
    probeless,
    random_scores,
    top_set,
)
from neuronlens.sites import Site
from neuronlens.streaming.moments import Moments

SITE = Site(3, "resid_post")


def test_mean_abs_is_the_references():
    values = np.array([[1.0, -3.0], [0.5, 0.5]])
    np.testing.assert_array_equal(mean_abs(Moments.of(values), Moments.of(values * 9)), [2.0, 0.5])


def test_mean_keeps_its_sign_and_probeless_the_distance_alone():
    own, rest = np.array([[-2.0, -4.0], [1.0, 2.0], [5.0, 5.0]]), np.array([[3.0], [-0.5], [5.0]])
    assert mean(Moments.of(own), Moments.of(rest)).tolist() == [-3.0, 1.5, 5.0]
    assert probeless(Moments.of(own), Moments.of(rest)).tolist() == [6.0, 2.0, 0.0]


def test_d_prime_by_its_formula():
    generator = np.random.default_rng(0)
    own, rest = generator.normal(1, 2, (5, 30)), generator.normal(0, 0.3, (5, 70))
    expected = np.abs(own.mean(1) - rest.mean(1)) / np.sqrt((own.var(1, ddof=0) + rest.var(1, ddof=0)) / 2)
    np.testing.assert_allclose(d_prime(Moments.of(own), Moments.of(rest)), expected, rtol=1e-12)
    narrow = d_prime(Moments.of(own / 100), Moments.of(rest / 100))
    np.testing.assert_allclose(narrow, expected, rtol=1e-12, err_msg="however little neurons vary")


def test_d_prime_of_constant_neurons():
    """Two constants that differ are told apart perfectly; two equal ones not at all."""
    own, rest = (
        Moments.of(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])),
        Moments.of(np.array([[2.0, 2.0], [1.0, 1.0], [0.0, 2.0]])),
    )
    assert d_prime(own, rest).tolist() == [math.inf, 0.0, 0.0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, math.inf]), min_size=1, max_size=40), st.floats(0.01, 1))
def test_the_top_is_the_floor_of_the_share_and_ties_go_to_the_lower_index(scores, share):
    count = math.floor(share * len(scores))
    if count == 0:
        with pytest.raises(SiteError, match=r"interventions\.top: top = .* is less than one\. Use at least"):
            top_set(np.array(scores), share)
        return
    expected = sorted(range(len(scores)), key=lambda neuron: (-scores[neuron], neuron))[:count]
    assert top_set(np.array(scores), share).tolist() == expected


@pytest.mark.parametrize(
    ("width", "share", "count"), [(10, 0.3, 3), (10, 0.39, 3), (768, 0.3, 230), (10, 1.0, 10), (3, 0.34, 1)]
)
def test_counts_as_the_reference_counts(width, share, count):
    assert len(top_set(np.zeros(width), share)) == count


def test_random_scores_depend_on_seed_site_and_concept_only():
    scores = random_scores(20, 0, SITE, "sports")
    np.testing.assert_array_equal(scores, random_scores(20, 0, Site(3, "resid_post"), "sports"))
    others = [
        random_scores(20, 1, SITE, "sports"),
        random_scores(20, 0, SITE, "health"),
        random_scores(20, 0, Site(3, "mlp_post"), "sports"),
    ]
    assert not any(np.allclose(scores, other) for other in others)


def test_every_saliency_gives_a_score_per_neuron():
    part = Moments.of(np.random.default_rng(0).normal(size=(6, 8)))
    assert set(SALIENCIES) == {"mean_abs", "mean", "probeless", "d_prime"}
    assert all(saliency(part, part).shape == (6,) for saliency in SALIENCIES.values())


@st.composite
def concepts(draw):
    """[C] arrays [4, n_c], unequal: ordinary, mean 2000 and std 0.5, full of ties, and a constant neuron."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = []
    for size in draw(st.lists(st.integers(1, 30), min_size=2, max_size=5)):
        part = generator.normal(generator.normal(size=(4, 1)), 1, size=(4, size))
        part[1] = 2000 + 0.5 * part[1]
        part[2] = np.round(part[2])
        part[3] = 0.1
        values.append(part.astype(np.float32))
    return values


@settings(deadline=None, max_examples=30)
@given(concepts())
def test_auroc_is_mann_and_whitneys_and_scikit_learns(values):
    found = auroc_scores(values)
    assert found.shape == (len(values), 4)
    exact = [part.astype(np.float64) for part in values]
    for at, own in enumerate(exact):
        rest = np.concatenate([part for other, part in enumerate(exact) if other != at], axis=1)
        wins = scipy.stats.mannwhitneyu(own, rest, axis=1).statistic / (own.shape[1] * rest.shape[1])
        np.testing.assert_allclose(found[at], np.abs(2 * wins - 1), rtol=1e-12, atol=1e-12)
        labels = np.repeat([1, 0], [own.shape[1], rest.shape[1]])
        areas = [roc_auc_score(labels, np.concatenate([a, b])) for a, b in zip(own, rest, strict=True)]
        np.testing.assert_allclose(found[at], np.abs(2 * np.array(areas) - 1), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(concepts())
def test_auroc_knows_order_alone(values):
    found = auroc_scores(values)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[:, 3] == 0).all()
    for change in (np.negative, np.cbrt):
        np.testing.assert_array_equal(auroc_scores([change(part.astype(np.float64)) for part in values]), found)


def test_auroc_is_one_where_a_concept_stands_apart_on_either_side():
    low, middle, high = np.array([[0.0, 1.0]]), np.array([[2.0, 3.0, 4.0]]), np.array([[5.0]])
    assert auroc_scores([low, middle, high])[:, 0].tolist() == [1.0, 1 / 3, 1.0]


def test_auroc_in_chunks_is_the_same(monkeypatch):
    values = [np.random.default_rng(size).normal(size=(23, size)) for size in (5, 9, 1)]
    whole = auroc_scores(values)
    monkeypatch.setattr(module, "TEMPORARY_BYTES", 8 * module.TEMPORARIES * 15 * 4)
    np.testing.assert_array_equal(auroc_scores(values), whole)


def planted(sizes=(60, 50, 40), neurons=12, seed=0):
    """Neuron 2 i is driven up by concept i, neuron 2 i + 1 driven down; the others are noise, the last one constant."""
    generator = np.random.default_rng(seed)
    values = [generator.normal(size=(neurons, size)) for size in sizes]
    for at, part in enumerate(values):
        part[2 * at] += 2
        part[2 * at + 1] -= 2
        part[1] = 2000 + 0.5 * part[1]
        part[-1] = 0.1
    return [part.astype(np.float32) for part in values]


def test_the_probe_finds_the_planted_neurons():
    found = fit_probe(planted(), 0)
    assert found.converged
    assert found.scores.shape == (3, 12)
    assert (found.scores[:, -1] == 0).all()
    for at, scores in enumerate(found.scores):
        assert set(top_set(scores, 2 / 12 + 1e-9)) == {2 * at, 2 * at + 1}


def test_the_probe_gives_the_same_bytes_for_the_same_seed():
    values = planted(neurons=30)
    one, two = fit_probe(values, 3), fit_probe(values, 3)
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.iterations == two.iterations
    other = fit_probe(values, 4)
    assert other.scores.tobytes() != one.scores.tobytes()
    np.testing.assert_allclose(other.scores, one.scores, atol=0.02)


@pytest.mark.parametrize("sizes", [(60, 50, 40), (30, 70)])
def test_the_probe_minimises_what_it_says(monkeypatch, sizes):
    """Against L-BFGS-B on the positive and negative parts of the weights, where the lasso is smooth; in float64."""
    monkeypatch.setattr(module, "PROBE_TOLERANCE", 1e-6)
    values = planted(sizes, neurons=7)
    found = fit_probe(values, 0, iterations=2000)
    rows = np.concatenate(values, axis=1).astype(np.float64).T
    rows = (rows - rows.mean(axis=0)) / np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), np.inf)
    concept = np.repeat(range(len(sizes)), sizes)
    # two concepts have one vector of weights: the other's is fixed at zero
    free = len(sizes) if len(sizes) > 2 else 1
    width = free * 7

    def objective(parameters):
        weights = (parameters[:width] - parameters[width : 2 * width]).reshape(free, 7)
        logits = rows @ weights.T + parameters[2 * width :]
        logits = logits if free > 1 else np.concatenate([logits, np.zeros_like(logits)], axis=1)
        loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(rows)), concept].mean()
        return loss + 5e-4 * parameters[: 2 * width].sum() + 0.01 * (weights**2).sum()

    solved = scipy.optimize.minimize(
        objective,
        np.zeros(2 * width + free),
        method="L-BFGS-B",
        bounds=[(0, None)] * (2 * width) + [(None, None)] * free,
        options={"maxfun": 10**6, "maxiter": 10**4, "ftol": 1e-15, "gtol": 1e-9},
    )
    expected = np.abs(solved.x[:width] - solved.x[width : 2 * width]).reshape(free, 7)
    np.testing.assert_allclose(found.scores, np.broadcast_to(expected, (len(sizes), 7)), atol=2e-3)


def test_the_penalty_of_the_probe_does_not_depend_on_the_number_of_rows(monkeypatch):
    monkeypatch.setattr(module, "PROBE_TOLERANCE", 1e-6)
    values = planted()
    once, thrice = (fit_probe([np.tile(part, times) for part in values], 0, iterations=1000) for times in (1, 3))
    np.testing.assert_allclose(once.scores, thrice.scores, atol=1e-3)


@pytest.mark.filterwarnings("error")
def test_a_probe_that_has_not_settled_says_so():
    found = fit_probe(planted(), 0, iterations=2)
    assert (found.iterations, found.converged) == (2, False)


def test_a_probe_in_chunks_is_the_same(monkeypatch):
    values, whole = planted(), module.TEMPORARY_BYTES
    monkeypatch.setattr(module, "TEMPORARY_BYTES", 8 * module.TEMPORARIES * 150 * 5)
    found = fit_probe(values, 0)  # first: an array that is made afterwards may hold what a freed one held
    monkeypatch.setattr(module, "TEMPORARY_BYTES", whole)
    np.testing.assert_array_equal(found.scores, fit_probe(values, 0).scores)
