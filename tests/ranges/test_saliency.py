"""How neurons are ranked, and which ones make the top."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.errors import SiteError
from neuronlens.ranges.moments import Moments
from neuronlens.ranges.saliency import SALIENCIES, d_prime, mean_abs, random_scores, top_set
from neuronlens.sites import Site

SITE = Site(3, "resid_post")


def test_mean_abs_is_the_references():
    values = np.array([[1.0, -3.0], [0.5, 0.5]])
    np.testing.assert_array_equal(mean_abs(Moments.of(values), Moments.of(values * 9)), [2.0, 0.5])


def test_d_prime_by_its_formula():
    generator = np.random.default_rng(0)
    own, rest = generator.normal(1, 2, (5, 30)), generator.normal(0, 0.3, (5, 70))
    expected = np.abs(own.mean(1) - rest.mean(1)) / np.sqrt((own.var(1, ddof=0) + rest.var(1, ddof=0)) / 2)
    np.testing.assert_allclose(d_prime(Moments.of(own), Moments.of(rest)), expected, rtol=1e-12)


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
    assert set(SALIENCIES) == {"mean_abs", "d_prime"}
    assert all(saliency(part, part).shape == (6,) for saliency in SALIENCIES.values())
