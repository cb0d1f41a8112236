"""Moments in one mergeable pass give what NumPy and SciPy give on all the values at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.streaming.moments import Moments, merge_all

EXACT = {"rtol": 1e-9, "atol": 1e-12}


@st.composite
def drifting_batches(draw):
    """Unequal batches of 3 neurons that drift: one of ordinary size, one with mean 2000 and std 0.5, one tiny; sorted by concept or not."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 1))
    drift = draw(st.floats(0, 4))
    mean, std = np.array([0.3, 2000.0, -1e-4]), np.array([1.0, 0.5, 1e-5])
    batches = []
    for at, size in enumerate(sizes):
        shape = generator.normal(size=(3, size)) if draw(st.booleans()) else generator.exponential(size=(3, size))
        batches.append(((shape + drift * at) * std[:, None] + mean[:, None]).astype(np.float32))
    if draw(st.booleans()):
        batches = np.split(np.sort(np.concatenate(batches, axis=1), axis=1), np.cumsum(sizes)[:-1], axis=1)
    return batches


def check(found: Moments, values: np.ndarray) -> None:
    """Against NumPy and SciPy on all values [D, n], in float64."""
    exact = values.astype(np.float64)
    # moments of order three and four lose the digits that the mean needs: relative to the std, 2000 / 0.5 costs four of sixteen
    shifted = exact - np.median(exact, axis=1, keepdims=True)
    assert found.n == exact.shape[1]
    np.testing.assert_allclose(found.mean, exact.mean(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, shifted.std(axis=1, ddof=0), **EXACT)
    np.testing.assert_allclose(found.mean_abs, np.abs(exact).mean(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(found.minimum, exact.min(axis=1))
    np.testing.assert_array_equal(found.maximum, exact.max(axis=1))
    if found.n > 2 and (shifted.std(axis=1) > 0).all():
        np.testing.assert_allclose(found.skewness, scipy.stats.skew(shifted, axis=1, bias=True), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            found.kurtosis, scipy.stats.kurtosis(shifted, axis=1, bias=True), rtol=1e-6, atol=1e-8
        )
        expected = scipy.stats.jarque_bera(shifted, axis=1).pvalue
        np.testing.assert_allclose(found.jarque_bera, expected, rtol=1e-5, atol=1e-12)


@settings(deadline=None, max_examples=150)
@given(drifting_batches())
def test_merged_batches_equal_numpy_on_everything(batches):
    check(merge_all([Moments.of(batch) for batch in batches]), np.concatenate(batches, axis=1))


@settings(deadline=None, max_examples=50)
@given(drifting_batches())
def test_one_pass_equals_numpy(batches):
    values = np.concatenate(batches, axis=1)
    check(Moments.of(values), values)


@settings(deadline=None, max_examples=60)
@given(drifting_batches(), st.randoms())
def test_merging_is_associative_and_commutative_but_for_rounding(batches, random):
    parts = [Moments.of(batch) for batch in batches]
    forward = merge_all(parts)
    backward = parts[-1]
    for part in reversed(parts[:-1]):
        backward = part.merge(backward)
    shuffled = list(parts)
    random.shuffle(shuffled)
    for other in (backward, merge_all(shuffled)):
        assert other.n == forward.n
        for name in ("mean", "std", "mean_abs", "minimum", "maximum"):
            np.testing.assert_allclose(getattr(other, name), getattr(forward, name), **EXACT)
        for name in ("skewness", "kurtosis"):
            np.testing.assert_allclose(getattr(other, name), getattr(forward, name), rtol=1e-6, atol=1e-8)


def test_concept_sorted_data_with_a_large_mean():
    """Raw power sums give a negative variance here; a running variance of scaled deltas is off by a factor."""
    generator = np.random.default_rng(1)
    values = np.sort(generator.normal(2000, 0.5, size=(1, 6000)), axis=1)
    merged = merge_all([Moments.of(part) for part in np.array_split(values, 60, axis=1)])
    assert merged.std[0] == pytest.approx(values.std(), rel=1e-11)
    check(merged, values)


def test_nothing_merges_as_nothing():
    nothing, something = Moments.of(np.empty((2, 0))), Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert nothing.n == nothing.merge(nothing).n == 0
    assert nothing.std.tolist() == [0.0, 0.0]
    for merged in (nothing.merge(something), something.merge(nothing)):
        assert (merged.n, merged.mean.tolist(), merged.maximum.tolist()) == (2, [1.5, 4.0], [2.0, 5.0])


def test_a_single_value():
    one = Moments.of(np.array([[-3.0]]))
    assert (one.mean[0], one.std[0], one.mean_abs[0], one.minimum[0], one.maximum[0]) == (-3.0, 0.0, 3.0, -3.0, -3.0)
    assert (one.skewness[0], one.kurtosis[0]) == (0.0, 0.0)
    two = one.merge(Moments.of(np.array([[1.0]])))
    assert (two.mean[0], two.std[0], two.mean_abs[0]) == (-1.0, 2.0, 2.0)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_a_constant_neuron_has_no_spread_at_all(value, sizes):
    """Exactly: a gaussian range around it must hold the value."""
    merged = merge_all([Moments.of(np.full((1, size), value, dtype=np.float32)) for size in sizes])
    assert np.float32(merged.mean[0]) == np.float32(value)
    assert (merged.std[0], merged.skewness[0], merged.kurtosis[0], merged.jarque_bera[0]) == (0.0, 0.0, 0.0, 1.0)


def test_the_order_of_merging_is_kept_bit_for_bit():
    parts = [Moments.of(np.random.default_rng(seed).normal(size=(4, 9 + seed))) for seed in range(5)]
    one, two = merge_all(parts), merge_all(list(parts))
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("mean", "m2", "m3", "m4"))
