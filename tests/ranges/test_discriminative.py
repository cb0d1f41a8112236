"""Discriminative ranges against closed forms: where a concept is denser than the others, and how much that tells it apart."""

from __future__ import annotations

import math
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.ranges import discriminative as module
from neuronlens.ranges.discriminative import BINS, INTERVALS
from tests.ranges.sample import discriminative_bounds, inside, separation_scores


def none(neurons=1):
    """No ordinary tokens."""
    return np.empty((neurons, 0), dtype=np.float32)


def normal(seed, mean, std, count, neurons=1):
    return np.random.default_rng(seed).normal(mean, std, (neurons, count)).astype(np.float32)


def doses(bounds, *groups):
    """[group] lists [D] of the share inside."""
    return [inside(group, *bounds).mean(axis=1) for group in groups]


def intervals(bounds, neuron=0):
    """Those of a neuron that hold something, from left to right."""
    lower, upper = bounds
    return sorted((a, b) for a, b in zip(lower[neuron], upper[neuron], strict=True) if a <= b)


@contextmanager
def all_intervals():
    """None dropped: of several that hold equally much the leftmost ones stay, which no mirror keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "INTERVALS", BINS)
        yield


def crossings(mean, std):
    """Where N(mean, std) and N(0, 1) are equally dense, and their total variation distance."""
    one, two = scipy.stats.norm(mean, std), scipy.stats.norm()
    grid = np.linspace(-10, 10, 4000)  # no crossing lies on it
    gap = one.logpdf(grid) - two.logpdf(grid)
    places = [
        scipy.optimize.brentq(lambda x: one.logpdf(x) - two.logpdf(x), a, b)
        for (a, b), (left, right) in zip(pairwise(grid), pairwise(gap), strict=True)
        if left * right < 0
    ]
    shares = [np.diff(law.cdf([-math.inf, *places, math.inf])) for law in (one, two)]
    return places, np.abs(shares[0] - shares[1]).sum() / 2


@pytest.mark.parametrize(("mean", "std"), [(1, 1), (2, 1), (-1.5, 0.7), (0, 0.3), (0, 3), (4, 1)])
def test_at_a_ratio_of_one_the_gain_is_the_total_variation_distance(mean, std):
    """On rows that the ranges were not fitted on; the score estimates the same number from the fit rows."""
    places, distance = crossings(mean, std)
    own, rest = normal(0, mean, std, 4000), normal(1, 0, 1, 6000)
    bounds = discriminative_bounds(own, rest, none(), 1.0)
    target, complement = doses(bounds, normal(2, mean, std, 20000), normal(3, 0, 1, 20000))
    assert target[0] - complement[0] == pytest.approx(distance, abs=0.03)
    assert separation_scores(own, rest, none())[0] == pytest.approx(distance, abs=0.04)
    edges = [edge for interval in intervals(bounds) for edge in interval]
    for place in places:
        rare = scipy.stats.norm.pdf(place) < 0.02  # the bins there are wide
        assert min(abs(edge - place) for edge in edges) < (1.5 if rare else 0.35)


def test_a_higher_ratio_is_stricter():
    own, rest = normal(0, 1.5, 1, 3000), normal(1, 0, 1, 3000)
    found = [doses(discriminative_bounds(own, rest, none(), ratio), own, rest) for ratio in (0.5, 1, 2, 5)]
    shares = np.array(found)[:, :, 0]
    assert (np.diff(shares, axis=0) < 0).all()
    for ratio, (target, complement) in zip((0.5, 1, 2, 5), shares, strict=True):
        edge = math.log(ratio) / 1.5 + 0.75
        assert target == pytest.approx(scipy.stats.norm.sf(edge - 1.5), abs=0.06)
        assert complement == pytest.approx(scipy.stats.norm.sf(edge), abs=0.06)


def test_a_concept_with_two_modes_gets_two_intervals():
    own = np.concatenate([normal(0, -4, 0.5, 300), normal(1, 4, 0.5, 500)], axis=1)
    bounds = discriminative_bounds(own, normal(2, 0, 1, 900), none(), 1.0)
    (low, high), (low2, high2) = intervals(bounds)
    assert low < -4 < high < -1.5
    assert 1.5 < low2 < 4 < high2
    assert bounds[0][0, 0] == low2, "the interval that holds most of the concept comes first"
    assert doses(bounds, own, normal(3, 0, 1, 900))[0][0] > 0.97


def test_at_most_so_many_intervals_and_those_that_hold_most():
    """Five modes of different weight between the others' rows: the smallest two go without."""
    counts = (400, 100, 300, 120, 500)
    own = np.concatenate([normal(i, 10 * i, 0.3, n) for i, n in enumerate(counts)], axis=1)
    rest = np.concatenate([normal(9 + i, 10 * i + 5, 0.3, 300) for i in range(4)], axis=1)
    lower, upper = discriminative_bounds(own, rest, none(), 1.0)
    assert lower.shape == upper.shape == (1, INTERVALS)
    held = [next(i for i in range(5) if a <= 10 * i <= b) for a, b in zip(lower[0], upper[0], strict=True)]
    assert held == [4, 0, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    *(st.integers(10, 150).map(lambda n: 2 * n) for _ in range(2)),
    st.sampled_from([0, 60]),
)
def test_mirrored_data_give_mirrored_intervals(seed, own_rows, rest_rows, token_rows):
    generator = np.random.default_rng(seed)
    parts = [
        generator.normal(generator.normal(size=(3, 1)), generator.uniform(0.3, 2, (3, 1)), (3, n)).astype(np.float32)
        for n in (own_rows, rest_rows, token_rows)
    ]
    # a row that an edge falls on counts to the bin above it: of even numbers with common extremes there is none
    for part in parts:
        part[:, :2] = [-10, 10][: part.shape[1]]
    with all_intervals():
        plain, mirrored = (discriminative_bounds(*(sign * part for part in parts), 1.0) for sign in (1, -1))
    for neuron in range(3):
        expected = sorted((-b, -a) for a, b in intervals(plain, neuron))
        np.testing.assert_allclose(
            np.array(intervals(mirrored, neuron)).reshape(-1, 2), np.array(expected).reshape(-1, 2), atol=1e-5
        )
    np.testing.assert_allclose(
        separation_scores(*parts), separation_scores(*(-part for part in parts)), rtol=0, atol=1e-12
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2.0**-10, 0.5, 4.0, 2.0**12]), st.integers(-64, 64))
def test_scale_and_shift_change_nothing_else(seed, scale, shift):
    """By powers of two and on a grid, so that no rounding is in the way; bounds move with the activations."""
    generator = np.random.default_rng(seed)
    parts = [
        np.round(generator.normal(mean, 1, (2, n)) * 1024) / 1024 for mean, n in ((0.8, 90), (0, 250), (-0.5, 130))
    ]
    parts = [part.astype(np.float32) for part in parts]
    moved = [((part + shift) * scale).astype(np.float32) for part in parts]
    one, two = discriminative_bounds(*parts, 1.0), discriminative_bounds(*moved, 1.0)
    for group, there in zip(parts, moved, strict=True):
        np.testing.assert_array_equal(inside(group, *one), inside(there, *two))
    np.testing.assert_allclose(separation_scores(*parts), separation_scores(*moved), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_ordinary_tokens_are_avoided_like_the_complement(ratio):
    """Neuron 0 stands apart from the other concepts, but ordinary text is there as often; neuron 1 stands apart from both."""
    own, rest = normal(0, 3, 1, 2000, 2), normal(1, 0, 1, 2000, 2)
    text = normal(2, 0, 1, 2000, 2)
    text[0] = normal(3, 2, 1, 2000)
    bounds = discriminative_bounds(own, rest, text, ratio)
    target, complement, ordinary = doses(bounds, *(np.roll(part, 1, axis=1) for part in (own, rest, text)))
    assert (ordinary <= target / ratio + 0.01).all()
    assert (complement <= target / ratio + 0.01).all()
    without = doses(discriminative_bounds(own, rest, none(2), ratio), own, text)
    assert without[1][0] > 2 * ordinary[0]
    assert target[1] > 0.75


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.data())
def test_an_interval_next_to_a_spike_leaves_it_out(seed, data):
    """Of a rectified neuron, or one with a spike inside or at the top: what is inside gains what the score promises."""
    generator = np.random.default_rng(seed)
    groups = []
    side, place = data.draw(st.sampled_from(["above", "below", "both"])), data.draw(st.sampled_from([0.0, -3.0, 0.25]))
    for rows in (data.draw(st.integers(40, 300)), data.draw(st.integers(60, 600))):
        sizes = np.abs(generator.normal(0, data.draw(st.sampled_from([0.3, 1.0, 10.0])), rows))
        signs = {"above": 1.0, "below": -1.0, "both": generator.choice([-1.0, 1.0], rows)}[side]
        silent = generator.random(rows) < data.draw(st.floats(0, 1))
        groups.append((place + np.where(silent, 0, signs * sizes))[None].astype(np.float32))
    own, rest = groups
    bounds = discriminative_bounds(own, rest, none(), 1.0)
    target, complement = doses(bounds, own, rest)
    # smoothing and the intervals beyond the third cost something, and half a row a bin is a lot where rows are few
    assert target[0] - complement[0] >= separation_scores(own, rest, none())[0] - 0.25


def test_of_a_rectified_neuron_the_active_part_is_taken():
    own = np.concatenate([np.zeros((1, 100)), np.linspace(0.01, 2, 150)[None]], axis=1).astype(np.float32)
    rest = np.concatenate([np.zeros((1, 430)), np.linspace(0.01, 10, 70)[None]], axis=1).astype(np.float32)
    bounds = discriminative_bounds(own, rest, none(), 1.0)
    target, complement = doses(bounds, own, rest)
    assert not inside(np.zeros((1, 1), dtype=np.float32), *bounds).any()
    assert target[0] > 0.5
    assert complement[0] < 0.1


def test_a_value_that_only_the_concept_takes_is_a_range_of_its_own():
    """A spike within the others' rows, whose neighbours on either side are left out."""
    own = np.full((1, 80), 0.5, dtype=np.float32)
    rest = np.concatenate([normal(0, 0, 0.1, 150), normal(1, 1, 0.1, 150)], axis=1)
    bounds = discriminative_bounds(own, rest, none(), 1.0)
    assert [share[0] for share in doses(bounds, own)] == [1.0]
    assert doses(bounds, rest)[0][0] < 0.2


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 2001.7])
def test_a_constant_neuron_separates_nothing(value):
    own, rest, text = (np.full((1, n), value, dtype=np.float32) for n in (30, 90, 50))
    for ordinary in (none(), text):
        assert separation_scores(own, rest, ordinary).tolist() == [0.0]
        assert intervals(discriminative_bounds(own, rest, ordinary, 1.0)) == []


def test_two_constants_that_differ_are_told_apart():
    own, rest = np.full((1, 40), 3.0, dtype=np.float32), np.full((1, 90), 0.1, dtype=np.float32)
    bounds = discriminative_bounds(own, rest, none(), 1.0)
    assert [share[0] for share in doses(bounds, own, rest)] == [1.0, 0.0]


@pytest.mark.parametrize("text", [0, 400])
def test_there_is_no_range_where_the_concept_equals_the_rest(text):
    part = normal(0, 1, 2, 400, 5)
    ordinary = part[:, :text]
    lower, upper = discriminative_bounds(part, part, ordinary, 1.0)
    assert (lower > upper).all()
    assert (lower == np.inf).all()
    np.testing.assert_allclose(separation_scores(part, part, ordinary), 0, atol=1e-12)


def test_thirty_rows_do_not_make_ranges_out_of_chance():
    """At ratio 2, of neurons that know nothing, on rows that the ranges were not fitted on; the score falls with the rows."""
    ours = [normal(seed, 0, 1, 30, 300) for seed in (0, 1)]
    rest, fresh = normal(2, 0, 1, 900, 300), normal(3, 0, 1, 900, 300)
    target, complement = doses(discriminative_bounds(ours[0], rest, none(300), 2.0), ours[1], fresh)
    assert np.mean(complement) < 0.1
    assert np.mean(target) == pytest.approx(np.mean(complement), abs=0.02)
    many = separation_scores(normal(4, 0, 1, 3000, 300), rest, none(300))
    assert many.mean() < separation_scores(ours[0], rest, none(300)).mean() < 0.3


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 400), st.integers(0, 50), st.booleans())
def test_few_rows_of_unequal_number_and_duplicates_give_bounds_that_are_bounds(seed, few, many, text, rounded):
    generator = np.random.default_rng(seed)
    own, rest, ordinary = (generator.normal(size=(4, n)) for n in (few, many, text))
    if rounded:
        own, rest, ordinary = (np.round(part) for part in (own, rest, ordinary))
    parts = [part.astype(np.float32) for part in (own, rest, ordinary)]
    lower, upper = discriminative_bounds(*parts, 1.0)
    assert lower.dtype == upper.dtype == np.float32
    assert lower.shape == upper.shape
    assert 1 <= lower.shape[1] <= INTERVALS
    unused = np.isinf(lower)
    np.testing.assert_array_equal(lower[unused], np.inf)
    np.testing.assert_array_equal(upper[unused], -np.inf)
    assert np.isfinite(upper[~unused]).all()
    for neuron in range(4):
        found = intervals((lower, upper), neuron)
        assert all(before[1] < after[0] for before, after in pairwise(found)), "apart"
    scores = separation_scores(*parts)
    assert ((scores >= 0) & (scores <= 1)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-4, 2000.0]), st.booleans())
def test_float32_bounds_hold_exactly_the_rows_of_the_dense_bins(seed, centre, rounded):
    """On a neuron whose values stand a few float32 steps apart, too: every row counted for a bin is inside iff the bin is dense."""
    generator = np.random.default_rng(seed)
    spread = 2e-3 if centre == 2000.0 else 1.0
    parts = [centre + spread * generator.normal(shift, 1, (1, n)) for shift, n in ((1, 64), (0, 150), (-1, 90))]
    parts = [(np.round(part, 1) if rounded else part).astype(np.float32) for part in parts]
    with all_intervals():
        bounds = discriminative_bounds(*parts, 1.0)
    ordered = [np.sort(part, axis=1).astype(np.float64) for part in parts]
    edges = module._edges(*ordered)
    own, *others = module._densities(edges, *ordered)
    dense = (own > np.max(others, axis=0))[0]
    for part, rows in zip(parts, ordered, strict=True):
        counted = module._counts(edges, rows)[0, dense].sum()
        assert inside(part, *bounds).sum() == counted


def test_the_outermost_bins_reach_a_standard_deviation_of_the_concept_further():
    own, rest = normal(0, 3, 1, 500), normal(1, 0, 1, 500)
    ((low, high),) = intervals(discriminative_bounds(own, rest, none(), 1.0))
    assert high == pytest.approx(max(own.max(), rest.max()) + own.std(), abs=1e-4)
    assert low > rest.min() + 1


def test_neurons_in_chunks_are_the_same(monkeypatch):
    """Where a neuron of another chunk has more intervals, what is not needed holds nothing."""
    own, rest, text = normal(0, 0.5, 1, 60, 23), normal(1, 0, 1, 200, 23), normal(2, -0.5, 1, 40, 23)
    own[5] = np.concatenate([normal(3, -4, 0.2, 30), normal(4, 4, 0.2, 30)], axis=1)
    whole, scores = discriminative_bounds(own, rest, text, 1.0), separation_scores(own, rest, text)
    monkeypatch.setattr(module, "_CHUNK", 300 * 4)
    parts = discriminative_bounds(own, rest, text, 1.0)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(separation_scores(own, rest, text), scores)


def test_neurons_are_told_apart_whatever_stands_beside_them(monkeypatch):
    """One has a single interval, one two, and one mostly a single value, so that some of its bins are void."""
    drawn = np.random.default_rng(8)
    one, two = normal(1, 3, 1, 200), np.concatenate([normal(2, -5, 1, 100), normal(3, 5, 1, 100)], axis=1)
    spike = np.where(drawn.random((1, 200)) < 0.7, 0, normal(4, 4, 1, 200)).astype(np.float32)
    rest = [normal(5, 0, 1, 300), normal(6, 0, 1, 300), np.maximum(normal(7, 0, 1, 300), 0)]
    concept, complement = np.concatenate([one, two, spike]), np.concatenate(rest)
    lower, upper = discriminative_bounds(concept, complement, none(3), 1.0)
    assert lower.shape[1] >= 2
    empty = lower > upper
    assert empty[0].any()
    assert np.isposinf(lower[empty]).all()
    assert np.isneginf(upper[empty]).all()
    for neuron in range(3):
        alone = discriminative_bounds(concept[[neuron]], complement[[neuron]], none(), 1.0)
        assert intervals(alone) == intervals((lower, upper), neuron)
    monkeypatch.setattr(module, "_CHUNK", 1)
    for apart, together in zip(discriminative_bounds(concept, complement, none(3), 1.0), (lower, upper), strict=True):
        np.testing.assert_array_equal(apart, together)


def test_bins_hold_about_as_much_of_every_group():
    """So that a small group far away has bins of its own: a share of the bins, not of the rows."""
    own, rest, text = normal(0, 50, 1, 30), normal(1, 0, 1, 3000), normal(2, -50, 1, 300)
    edges = module._edges(*(np.sort(part, axis=1).astype(np.float64) for part in (own, rest, text)))[0]
    assert len(edges) == BINS + 1
    assert (np.diff(edges) >= 0).all()
    for lower, upper in ((40, 60), (-10, 10), (-60, -40)):
        assert np.sum((edges > lower) & (edges < upper)) == pytest.approx(BINS / 3, abs=1.5)


def by_hand(own, rest, text, threshold):
    """Intervals of one neuron, those that hold most first, and its score; rows are looked at one by one, and no two are equal."""
    groups = [np.sort(group.astype(np.float64)) for group in (own, rest, text) if len(group)]
    merged = sorted(float(q) for group in groups for q in np.quantile(group, np.arange(BINS + 1) / BINS))
    edges = [merged[0]]
    for place in range(1, BINS):
        of_edge = merged[place * len(groups) : (place + 1) * len(groups)]
        edges.append(float(np.median(of_edge)))
    edges.append(merged[-1])
    densities = []
    for group in groups:
        counts = [sum(a <= row < b or (row == b == edges[-1]) for row in group) for a, b in pairwise(edges)]
        around = [counts[0], *counts, counts[-1]]
        smooth = [(around[i] + 2 * around[i + 1] + around[i + 2]) / 4 + 0.5 for i in range(BINS)]
        densities.append([part / sum(smooth) for part in smooth])
    first, *others = densities
    score = min(sum(max(one - two, 0) for one, two in zip(first, other, strict=True)) for other in others)
    dense = [one > threshold * max(parts) for one, *parts in zip(first, *others, strict=True)]
    margin, runs, start = groups[0].std(), [], None
    for place in range(BINS + 1):
        if place < BINS and dense[place]:
            start = place if start is None else start
        elif start is not None:
            low = edges[start] - (margin if start == 0 else 0)
            high = edges[place] + (margin if place == BINS else 0)
            runs.append((sum(first[start:place]), low, high))
            start = None
    runs.sort(key=lambda run: -round(run[0], 12))
    return [(low, high) for _, low, high in runs[:INTERVALS]], score


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 20, 33, 47]), st.sampled_from([0.5, 1.0, 1.5, 3.0]))
def test_intervals_and_scores_are_those_of_a_count_by_hand(seed, tokens, threshold):
    """Of several neurons at once, which need different numbers of intervals."""
    generator = np.random.default_rng(seed)
    own, rest, text = (
        generator.normal(generator.normal(size=(4, 1)), generator.uniform(0.3, 2, (4, 1)), (4, count)).astype(
            np.float32
        )
        for count in (60, 90, tokens)
    )
    lower, upper = discriminative_bounds(own, rest, text, threshold)
    scores = separation_scores(own, rest, text)
    assert lower.dtype == upper.dtype == np.float32
    needed = []
    for neuron in range(4):
        expected, score = by_hand(own[neuron], rest[neuron], text[neuron], threshold)
        assert scores[neuron] == pytest.approx(score, rel=1e-9)
        found = [*zip(lower[neuron].tolist(), upper[neuron].tolist(), strict=True)]
        for one, two in zip(found, expected, strict=False):
            assert one == pytest.approx(two, rel=1e-5, abs=1e-6)
        assert found[len(expected) :] == [(math.inf, -math.inf)] * (len(found) - len(expected))
        needed.append(len(expected))
    assert lower.shape[1] == max(*needed, 1), "no more columns than a neuron needs"


def test_a_bound_is_the_last_float32_in_front_of_the_next_bin():
    """Edges that float32 can hold belong to the bin that they begin; the last bin has its end, and a margin on it."""
    edges = np.arange(BINS + 1, dtype=np.float64)[None]
    lower, upper = module._closed(edges, np.array([0.5]))
    np.testing.assert_array_equal(lower[0], [-0.5, *range(1, BINS)])
    before = np.nextafter(np.arange(1, BINS, dtype=np.float32), np.float32(0))
    np.testing.assert_array_equal(upper[0], [*before, BINS + 0.5])


def test_a_value_that_many_rows_share_does_not_cut_an_interval_in_two():
    """It fills several bins, all but the first of them void, which are no gap."""
    own = np.concatenate([np.linspace(4, 6, 100), np.full(100, 5.0)]).astype(np.float32)[None]
    ((low, high),) = intervals(discriminative_bounds(own, normal(1, 0, 1, 200), none(), 1.0))
    assert 3 < low < 4.2
    assert high == pytest.approx(6 + own.std(dtype=np.float64))


def test_an_interval_may_begin_in_the_first_bin_and_end_in_the_last():
    own = np.linspace(0, 1, 200, dtype=np.float32)[None]
    rest = np.linspace(0.4, 0.6, 200, dtype=np.float32)[None]
    (low, high), (low2, high2) = intervals(discriminative_bounds(own, rest, none(), 1.0))
    margin = own.std(dtype=np.float64)
    assert (low, high2) == (pytest.approx(-margin, rel=1e-6), pytest.approx(1 + margin, rel=1e-6))
    assert high < 0.45 < 0.55 < low2
