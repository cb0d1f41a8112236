"""A histogram is the same to the bit whatever the batches and the order, and its bins are those that exact arithmetic says."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neuronlens.streaming.histogram import BINS, Histogram, aligned

MOST = float(np.finfo(np.float32).max)
LEAST = 2.0**-149
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.77, 0.99, 1.0)


@st.composite
def values(draw, neurons=3, least=1):
    """[3, n] float32: anything there is, what a neuron might say, or few different values, many of them at edges of bins."""
    count = draw(st.integers(least, 60))
    kind = draw(st.sampled_from(["anything", "drawn", "few"]))
    if kind == "anything":
        finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
        return draw(arrays.arrays(np.float32, (neurons, count), elements=finite))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 2.0 ** draw(st.integers(-140, 110))
    if kind == "few":
        return (scale * generator.integers(-70, 70, size=(neurons, count)) / 2).astype(np.float32)
    centre = draw(st.sampled_from([0.0, 1.0, -3.0, 4000.0])) * scale
    drawn = centre + scale * generator.normal(size=(neurons, count))
    return np.maximum(drawn, draw(st.sampled_from([-math.inf, 0.0]))).astype(np.float32)


def same(one: Histogram, other: Histogram) -> None:
    assert one.n == other.n
    for name in ("k", "first", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def bins(row, k: int) -> list[int]:
    """Number of the bin of every value, in rational numbers."""
    return [math.floor(Fraction(float(value)) / Fraction(2) ** k) for value in row]


def finest(row) -> int:
    """The exponent of the spacing of float32 at the largest absolute value: its 24th binary digit."""
    largest = float(np.abs(row).max())
    return max(-149, math.frexp(largest)[1] - 24) if largest else -149


def spread_out(row, k: int) -> int:
    return max(bins(row, k)) - min(bins(row, k)) + 1


@settings(deadline=None, max_examples=200)
@given(values(), st.data())
def test_any_batches_merged_in_any_order_are_one_pass(drawn, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, drawn.shape[1]), max_size=6)))
    order = data.draw(st.permutations(range(drawn.shape[1])))
    parts = [Histogram.of(part) for part in np.split(drawn[:, order], cuts, axis=1)]
    while len(parts) > 1:
        one, other = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(2))
        parts.append(one.merge(other))
    same(parts[0], Histogram.of(drawn))


@settings(deadline=None, max_examples=200)
@given(values())
@example(np.array([[-MOST, MOST], [-LEAST, MOST], [0, LEAST]], dtype=np.float32))
@example(np.array([[0, 0], [-LEAST, -LEAST], [MOST, MOST]], dtype=np.float32))
@example(np.array([[0, BINS - 1], [0, BINS], [-1, BINS - 1]], dtype=np.float32))
def test_bins_and_counts_by_their_definition(drawn):
    """Each neuron has the least k that is not finer than float32 and needs no more than so many bins; they start at the smallest value."""
    found = Histogram.of(drawn)
    assert found.n == drawn.shape[1]
    for neuron, row in enumerate(drawn):
        k = int(found.k[neuron])
        assert k >= finest(row)
        assert spread_out(row, k) <= BINS
        assert k == finest(row) or spread_out(row, k - 1) > BINS
        held = bins(row, k)
        assert (found.first[neuron], found.last[neuron]) == (min(held), max(held))
        expected = [held.count(min(held) + place) for place in range(BINS)]
        assert found.counts[:, neuron].tolist() == expected


@settings(deadline=None, max_examples=100)
@given(values())
def test_more_than_half_of_the_bins_are_spanned_unless_float32_has_no_finer_ones(drawn):
    found = Histogram.of(drawn)
    for neuron, row in enumerate(drawn):
        spanned = found.last[neuron] - found.first[neuron] + 1
        assert BINS / 2 < spanned <= BINS or found.k[neuron] == finest(row)


@settings(deadline=None, max_examples=100)
@given(values())
def test_the_edges_are_float64_numbers_around_the_values(drawn):
    found = Histogram.of(drawn)
    low, high = drawn.min(axis=1).astype(np.float64), drawn.max(axis=1).astype(np.float64)
    assert ((found.low <= low) & (low < found.low + found.width) & (high < found.high)).all()
    np.testing.assert_array_equal(found.high, found.low + BINS * found.width)
    for neuron, row in enumerate(drawn.astype(np.float64)):
        # exact edges: NumPy's own would be off by rounding, and so would its counts
        edges = (found.first[neuron] + np.arange(BINS + 1)) * found.width[neuron]
        inside = np.searchsorted(edges, row, side="right") - 1
        assert found.counts[:, neuron].tolist() == np.bincount(inside, minlength=BINS).tolist()


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.lists(st.integers(1, 50), min_size=1, max_size=4))
@example(0.0, [2])
@example(MOST, [2, 1])
@example(-MOST, [2, 1])
@example(LEAST, [1])
def test_a_constant_neuron_has_one_bin_as_wide_as_float32_is_fine(value, sizes):
    parts = [Histogram.of(np.full((1, size), value, dtype=np.float32)) for size in sizes]
    merged = aligned(parts)[0]
    assert merged.counts[0, 0] == merged.counts.sum() == sum(sizes)
    assert merged.low[0] == np.float32(value)
    assert merged.width[0] == 2.0 ** finest(np.float32([value]))


@settings(deadline=None, max_examples=100)
@given(st.lists(values(least=0), min_size=1, max_size=5))
def test_aligned_parts_stand_on_the_edges_of_their_merge(drawn):
    """Parts of very different sizes, some without any value: each is counted on the bins of all."""
    together, counts = aligned([Histogram.of(part) for part in drawn])
    same(together, Histogram.of(np.concatenate(drawn, axis=1)))
    np.testing.assert_array_equal(together.counts, counts.sum(axis=0))
    for part, own in zip(drawn, counts, strict=True):
        for neuron, row in enumerate(part):
            held = [number - together.first[neuron] for number in bins(row, int(together.k[neuron]))]
            assert own[:, neuron].tolist() == [held.count(place) for place in range(BINS)]


def test_a_tiny_neuron_beside_a_huge_one_keeps_its_signs():
    """Coarsening rounds down: what is just below 0 stays below 0 by how many powers of two the bins may grow."""
    tiny = Histogram.of(np.array([[-LEAST, -LEAST, LEAST]], dtype=np.float32))
    merged = tiny.merge(Histogram.of(np.array([[-MOST, MOST]], dtype=np.float32)))
    edges = merged.low[0] + merged.width[0] * np.arange(BINS + 1)
    zero = int(np.flatnonzero(edges == 0)[0])
    assert merged.counts[[zero - 1, zero], 0].tolist() == [2, 1]
    assert merged.n == 5


def test_counts_beyond_32_bits_are_added():
    many = Histogram.of(np.array([[1.0, 2.0]], dtype=np.float32))
    for _ in range(40):
        many = many.merge(many)
    assert many.n == many.counts.sum() == 2**41
    assert many.counts[0, 0] == 2**40


def test_nothing_merges_as_nothing():
    nothing = Histogram.of(np.empty((2, 0), dtype=np.float32))
    something = Histogram.of(np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32))
    same(nothing.merge(nothing), nothing)
    assert nothing.n == nothing.counts.sum() == 0
    for merged in (nothing.merge(something), something.merge(nothing)):
        same(merged, something)
    with pytest.raises(ValueError, match="no values have no quantiles"):
        nothing.quantiles([0.5])


@settings(deadline=None, max_examples=200)
@given(values(), st.lists(st.floats(0, 1), max_size=4))
@example(np.array([[0, 64, 64, 64, 1000]], dtype=np.float32), [0.125, 0.625])
def test_estimated_quantiles_are_numpys_but_for_a_bin_width(drawn, more):
    q = [*QUANTILES, *more]
    found = Histogram.of(drawn)
    exact = np.quantile(drawn.astype(np.float64), q, axis=1)
    assert (np.abs(found.quantiles(q) - exact) <= found.width).all()
    assert (np.diff(found.quantiles(sorted(q)), axis=0) >= -1e-9 * found.width).all()


def test_estimated_quantiles_of_even_values_are_exact():
    """Within a bin values are taken to lie at equal steps, with half a step to either edge: no error where they do."""
    drawn = ((np.arange(64_000) + 0.5) / 1000).astype(np.float32)[None]
    found = Histogram.of(drawn)
    assert found.width[0] == 1.0
    np.testing.assert_allclose(found.quantiles(QUANTILES)[:, 0], np.quantile(drawn[0], QUANTILES), atol=1e-5)
