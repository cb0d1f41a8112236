"""Overlap of concepts: bounds, symmetry, and what the definitions give by other means."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neuronlens.ranges import overlap as module
from neuronlens.ranges.overlap import bhattacharyya, histogram_overlap, jaccard, polysemanticity
from neuronlens.streaming.moments import Moments

HISTOGRAMS = arrays.arrays(
    np.int32, st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 4)), elements=st.integers(0, 50)
)
TOP_SETS = st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=6)


def gaussian(mean, std):
    """Moments of neurons with given mean [D] and std [D]."""
    mean, std = np.atleast_1d(np.asarray(mean, dtype=np.float64)), np.atleast_1d(np.asarray(std, dtype=np.float64))
    return Moments(10, mean, 10 * std**2, 0 * mean, 0 * mean, np.abs(mean), mean, mean)


def sets(found):
    return [np.array(sorted(one), dtype=np.int64) for one in found]


@settings(deadline=None)
@given(HISTOGRAMS)
def test_histogram_overlap_by_its_definition(histogram):
    found = histogram_overlap(histogram)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    for at, (a, b) in enumerate(combinations(range(len(histogram)), 2)):
        for neuron in range(histogram.shape[2]):
            one, two = histogram[a, :, neuron], histogram[b, :, neuron]
            empty = one.sum() == 0 or two.sum() == 0
            expected = 0 if empty else np.minimum(one / one.sum(), two / two.sum()).sum()
            assert found[at, neuron] == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(HISTOGRAMS)
def test_histogram_overlap_is_symmetric(histogram):
    forward, backward = (
        dict(zip(combinations(order, 2), histogram_overlap(histogram[order]), strict=True))
        for order in (list(range(len(histogram))), list(range(len(histogram)))[::-1])
    )
    for (a, b), overlap in forward.items():
        np.testing.assert_array_equal(overlap, backward[b, a])


@settings(deadline=None)
@given(HISTOGRAMS, st.integers(1, 97))
def test_the_same_shares_overlap_exactly_whatever_the_number_of_rows(histogram, times):
    histogram[:, 0] += 1  # no concept without rows
    one = histogram[0]
    np.testing.assert_array_equal(histogram_overlap(np.stack([one, one * times])), np.ones((1, one.shape[1])))


def test_disjoint_histograms_do_not_overlap_and_half_is_half():
    counts = np.array([[4, 0, 0, 0], [0, 0, 3, 5], [1, 1, 0, 0]], dtype=np.int32)[:, :, None]
    np.testing.assert_array_equal(histogram_overlap(counts)[:, 0], [0, 0.5, 0])


def test_chunks_of_neurons_do_not_show(monkeypatch):
    histogram = np.random.default_rng(0).integers(0, 9, size=(4, 16, 23)).astype(np.int32)
    whole = histogram_overlap(histogram)
    monkeypatch.setattr(module, "NEURONS", 5)
    np.testing.assert_array_equal(histogram_overlap(histogram), whole)


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 3), st.floats(0.05, 4), st.floats(-3, 3), st.floats(0.05, 4))
def test_bhattacharyya_is_the_integral(mean_a, std_a, mean_b, std_b):
    found = bhattacharyya([gaussian(mean_a, std_a), gaussian(mean_b, std_b)])[0, 0]
    one, two = scipy.stats.norm(mean_a, std_a), scipy.stats.norm(mean_b, std_b)
    # the narrower one holds all of the product's mass
    low, high = max(one.ppf(1e-16), two.ppf(1e-16)), min(one.isf(1e-16), two.isf(1e-16))
    expected, _ = scipy.integrate.quad(
        lambda x: np.sqrt(one.pdf(x) * two.pdf(x)), min(low, high) - 1, max(low, high) + 1, limit=200
    )
    assert found == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-1e30, 1e30), st.one_of(st.just(0.0), st.floats(1e-30, 1e30))] * 2),
        min_size=1,
        max_size=10,
    )
)
def test_bhattacharyya_is_symmetric_bounded_and_never_nan(parameters):
    mean_a, std_a, mean_b, std_b = np.array(parameters).T
    one, two = gaussian(mean_a, std_a), gaussian(mean_b, std_b)
    found = bhattacharyya([one, two])
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found, bhattacharyya([two, one]))
    np.testing.assert_allclose(bhattacharyya([one, one]), 1, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_bhattacharyya_of_constant_neurons_is_the_limit():
    constant_a, constant_b = gaussian([1, 1, 1, 0], [0, 0, 0, 2]), gaussian([1, 2, 1, 0], [0, 0, 3, 0])
    assert bhattacharyya([constant_a, constant_b])[0].tolist() == [1, 0, 0, 0]
    for std in (1e-6, 1e-12):
        near = bhattacharyya([gaussian([1, 1, 1], std), gaussian([1, 2, 1], [std, std, 3])])[0]
        np.testing.assert_allclose(near, [1, 0, 0], atol=np.sqrt(std))
    assert bhattacharyya([gaussian([1e200], [1e-100]), gaussian([0], [1e-100])]).tolist() == [[0]]


def test_pairs_come_in_the_order_of_combinations():
    """Neuron 0 cannot tell a from c, neuron 1 not b from c."""
    concepts = [gaussian([0, 50], [1, 1]), gaussian([50, 0], [1, 1]), gaussian([0, 0], [1, 1])]
    np.testing.assert_allclose(bhattacharyya(concepts), [[0, 0], [1, 0], [0, 1]], atol=1e-6)
    held = sets([{0, 1}, {2, 3}, {0, 1, 2, 3}])
    np.testing.assert_array_equal(jaccard(held), [0, 0.5, 0.5])


def test_one_concept_has_no_pairs():
    assert bhattacharyya([gaussian([0, 1], 1)]).shape == (0, 2)
    assert histogram_overlap(np.ones((1, 4, 2), dtype=np.int32)).shape == (0, 2)
    assert jaccard([np.arange(3)]).shape == (0,)


@settings(deadline=None)
@given(TOP_SETS)
def test_jaccard_by_sets(found):
    expected = [len(a & b) / len(a | b) if a | b else 1 for a, b in combinations(found, 2)]
    np.testing.assert_allclose(jaccard(sets(found)), expected)


@settings(deadline=None)
@given(TOP_SETS)
def test_polysemanticity_counts_the_concepts_of_a_neuron(found):
    counts = polysemanticity(sets(found), 12)
    assert counts.tolist() == [sum(neuron in one for one in found) for neuron in range(12)]
