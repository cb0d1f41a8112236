"""Intervals that cover as often as they say, and resamples that are paired and reproducible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from neuronlens.evaluation import uncertainty
from neuronlens.evaluation.uncertainty import (
    Estimate,
    change_of_rate,
    contributions,
    difference,
    mcnemar_p,
    mean,
    mean_of_shares,
    ratio,
    stratified_weights,
    total,
    wilson,
)

Z = 1.959963984540054  # the 97.5 % point of the normal distribution


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_by_its_formula(n, share):
    hits = round(share * n)
    p = hits / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = wilson(hits, n)
    assert low == pytest.approx(max(0, centre - half), abs=1e-9)
    assert high == pytest.approx(min(1, centre + half), abs=1e-9)


def test_wilson_at_the_ends_stays_a_rate_and_has_width():
    assert wilson(0, 20)[0] == 0.0 < wilson(0, 20)[1] < 0.2
    assert 0.8 < wilson(20, 20)[0] < wilson(20, 20)[1] == 1.0


def counts(most=80):
    """(lost, gained, n) of a paired change."""
    return st.integers(2, most).flatmap(
        lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
    )


def score(change, b, c, n):
    """Tango's statistic, with the nuisance rate where the likelihood of the counts is highest."""
    if abs(change) >= 1:
        return 0.0 if b - c == n * change else math.inf

    def unlikely(gaining):
        return -(stats.multinomial.logpmf((b, c, n - b - c), n, (gaining + change, gaining, 1 - 2 * gaining - change)))

    found = minimize_scalar(unlikely, bounds=(max(0, -change), (1 - change) / 2), options={"xatol": 1e-12})
    return abs(b - c - n * change) / math.sqrt(n * (2 * found.x + change * (1 - change)))


@settings(deadline=None, max_examples=60)
@given(counts())
def test_a_change_is_as_far_as_1_96_score_errors(table):
    b, c, n = table
    value, low, high = change_of_rate([b], [c], n)
    assert value[0] == pytest.approx((b - c) / n)
    assert -1 <= low[0] <= value[0] <= high[0] <= 1
    for limit in (low[0], high[0]):
        if abs(limit) < 1 - 1e-9:
            assert score(limit, b, c, n) == pytest.approx(Z, rel=2e-3)


@given(counts(2000))
def test_a_change_leaves_zero_out_where_the_plain_mcnemar_statistic_does(table):
    b, c, n = table
    _, low, high = change_of_rate([b], [c], n)
    statistic = (b - c) ** 2 / max(b + c, 1)
    if abs(statistic - Z**2) > 1e-6:
        assert (low[0] > 0 or high[0] < 0) == (statistic > Z**2)


@given(counts())
def test_gains_mirror_losses(table):
    b, c, n = table
    value, low, high = change_of_rate([b], [c], n)
    mirrored = change_of_rate([c], [b], n)
    np.testing.assert_allclose(mirrored, (-value, -high, -low), atol=1e-12)


@pytest.mark.parametrize("n", [1, 20, 100, 2000])
def test_a_change_has_width_where_no_row_changed(n):
    """There the interval has a closed form: z squared over n plus z squared."""
    value, low, high = change_of_rate(np.zeros(2), np.zeros(2), n)
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_allclose(high, Z**2 / (n + Z**2), rtol=1e-9)
    np.testing.assert_allclose(low, -high, rtol=1e-12)


def test_more_rows_of_the_same_kind_shorten_the_interval():
    widths = [np.ptp(change_of_rate([3 * k], [k], 20 * k)[1:], axis=0)[0] for k in (1, 2, 5, 20)]
    assert sorted(widths, reverse=True) == widths
    assert widths[-1] == pytest.approx(widths[-2] / 2, rel=0.05)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=5))
def test_mcnemar_is_the_binomial_test_of_the_rows_that_changed(pairs):
    lost, gained = np.array(pairs).T
    expected = [stats.binomtest(int(b), int(b + c)).pvalue if b + c else 1.0 for b, c in pairs]
    np.testing.assert_allclose(mcnemar_p(lost, gained), expected, rtol=1e-9)


shares = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60).map(lambda row: np.array([row]))
numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=60).map(lambda row: np.array([row]))


@given(shares)
def test_a_mean_of_shares_is_inside_its_interval_which_has_width(values):
    value, low, high = mean_of_shares(values)
    assert value[0] == pytest.approx(values.mean(dtype=np.float64))
    assert 0 <= low[0] <= value[0] <= high[0] <= 1
    assert high[0] - low[0] > 1 / (values.size + 4)


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0, 1))
def test_a_mean_of_zeros_and_ones_has_the_interval_of_a_rate(n, share):
    hits = round(share * n)
    _, low, high = mean_of_shares(np.array([[1.0] * hits + [0.0] * (n - hits)]))
    assert (low[0], high[0]) == pytest.approx(wilson(hits, n), abs=1e-9)


def test_shares_that_scatter_half_as_far_count_as_four_times_as_many():
    """0.25 and 0.75 beside 0 and 1, with so many rows that the added one is nothing."""
    far = np.repeat([[0.0, 1.0]], 20_000, axis=1)
    wide, short = (np.ptp(mean_of_shares(values)[1:], axis=0)[0] for values in (far, 0.25 + far / 2))
    assert short == pytest.approx(wide / 2, rel=1e-3)


@given(numbers)
def test_a_mean_is_never_more_certain_than_students(values):
    value, low, high = mean(values)
    expected = stats.ttest_1samp(values[0], 0).confidence_interval() if np.ptp(values) > 1e-6 else (value, value)
    slack = 1e-9 * (1 + np.abs(values).max())
    assert value[0] == pytest.approx(values.mean(), abs=slack)
    assert low[0] <= expected[0] + slack
    assert high[0] >= expected[1] - slack


def test_a_mean_without_skew_has_students_interval():
    """There Hall's transformation changes nothing; the quantiles of both are Student's."""
    values = np.array([[-3.0, -1.0, 0.0, 1.0, 3.0], [0.0, 4.0, 6.0, 8.0, 12.0]])
    _, low, high = mean(values)
    expected = stats.ttest_1samp(values, 0, axis=1).confidence_interval()
    np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-9)


def test_hall_undoes_his_own_transformation():
    point, skew = np.meshgrid(np.linspace(-4, 4, 17), np.array([-0.5, -0.1, 1e-3, 0.1, 0.5]))
    t = uncertainty._unskewed(point, skew)
    np.testing.assert_allclose(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6, point, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(uncertainty._unskewed(point, 1e-9 + 0 * skew), point, rtol=1e-6)


@given(numbers, st.floats(0.1, 10), st.floats(-10, 10))
def test_a_mean_moves_with_its_values(values, factor, shift):
    value, low, high = mean(values)
    scale = 1e-6 * (1 + np.abs(values).max() * factor + abs(shift))
    if np.ptp(values) == 0 or np.ptp(values) > 1e-3:  # a scatter of rounding errors has a skew of its own
        np.testing.assert_allclose(
            mean(values * factor + shift), np.array([value, low, high]) * factor + shift, atol=scale
        )
        np.testing.assert_allclose(mean(-values), (-value, -high, -low), atol=scale)


def test_the_long_side_of_the_interval_is_on_the_long_side_of_the_data():
    value, low, high = mean(np.random.default_rng(0).exponential(size=(1, 30)))
    assert high[0] - value[0] > 1.2 * (value[0] - low[0])


def test_one_value_alone_gets_the_limits():
    assert mean(np.array([[0.3]]), limits=(-1, 1)) == (0.3, -1, 1)
    assert mean(np.array([[0.3]])) == (0.3, -np.inf, np.inf)


def test_no_interval_reaches_beyond_the_limits():
    value, low, high = mean(np.array([[0.9, 1.0, 0.2], [0.0, 0.1, 0.0]]), limits=(0, 1))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low < value).all()
    assert (value < high).all()


def test_a_ratio_of_equal_denominators_is_a_mean():
    losses = np.random.default_rng(0).gamma(2, size=(3, 40))
    for found, expected in zip(ratio(losses * 7, np.full(40, 7)), mean(losses), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_ratio_by_the_delta_method():
    generator = np.random.default_rng(1)
    tokens = generator.integers(2, 128, 4000)
    losses = tokens * generator.normal(0.3, 0.1, (1, 4000))
    value, low, high = ratio(losses, tokens)
    assert value[0] == losses.sum() / tokens.sum()
    error = np.sqrt(((losses[0] - value[0] * tokens) ** 2).sum()) / tokens.sum()
    assert (low[0], high[0]) == pytest.approx((value[0] - Z * error, value[0] + Z * error), abs=0.02 * error)


def test_a_difference_of_symmetric_intervals_adds_the_variances():
    first, second = (
        Estimate(np.array([value]), np.array([value - half]), np.array([value + half]))
        for value, half in ((0.5, 0.3), (0.1, 0.4))
    )
    np.testing.assert_allclose(difference(first, second), [[0.4], [-0.1], [0.9]])


@given(counts(), counts())
def test_a_difference_mirrors_and_nests(one, other):
    first, second = (change_of_rate([b], [c], n) for b, c, n in (one, other))
    value, low, high = difference(first, second)
    assert -2 <= low[0] <= value[0] <= high[0] <= 2
    np.testing.assert_allclose(difference(second, first), (-value, -high, -low), atol=1e-12)
    certain = Estimate(second.value, second.value, second.value)
    np.testing.assert_allclose(difference(first, certain).low, first.low - second.value, atol=1e-12)


@pytest.fixture
def sweep():
    """(drops [M, C, N], concepts [C], concept of each row [N]) of 2 methods on 3 of 4 concepts."""
    generator = np.random.default_rng(0)
    of_row = generator.permutation(np.repeat([0, 1, 2, 5], [7, 10, 12, 9]))
    return generator.normal(size=(2, 3, len(of_row))), np.array([0, 2, 5]), of_row


@pytest.mark.parametrize(("target", "complement"), [(1, -1), (1, 0), (0, 1)])
def test_contributions_add_up_to_the_mean_over_concepts(sweep, target, complement):
    drops, concepts, of_row = sweep
    parts, largest = contributions(drops, concepts, of_row, target, complement)
    expected = np.mean(
        [
            target * drops[:, i, of_row == one].mean(axis=1) + complement * drops[:, i, of_row != one].mean(axis=1)
            for i, one in enumerate(concepts)
        ],
        axis=0,
    )
    np.testing.assert_allclose(parts.sum(axis=1), expected, rtol=1e-12)
    np.testing.assert_allclose(total(parts, of_row).value, expected, rtol=1e-12)
    assert largest == pytest.approx(1 / (3 * 7) if target else 1 / (3 * 26))


def test_contributions_need_both_groups(sweep):
    drops, _, of_row = sweep
    with pytest.raises(ValueError, match=r"^every concept needs rows of its own, and others$"):
        contributions(drops, np.array([0, 2, 4]), of_row)
    with pytest.raises(ValueError, match="and others"):
        contributions(drops[:, :1], np.array([3]), np.full(len(of_row), 3))


def test_a_total_of_two_strata_is_welchs_test():
    """Symmetric rows, so that there is no skew."""
    generator = np.random.default_rng(2)
    first, second = (np.concatenate([half, -half]) for half in (generator.normal(size=6), generator.normal(size=10)))
    parts = np.concatenate([first / 12, -second / 20])
    _, low, high = total(parts[None], np.repeat([4, 9], [12, 20]))
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_differences_between_strata_are_no_scatter():
    """The concepts are these: what they have in common among their rows is not drawn anew."""
    strata = np.repeat([0, 1], 10)
    rows = np.random.default_rng(3).normal(size=20)
    plain, shifted = total(rows[None], strata), total((rows + 5 * strata)[None], strata)
    np.testing.assert_allclose(np.subtract(shifted, plain), 50, rtol=1e-9)


def test_what_is_unseen_gives_width():
    _, low, high = total(np.zeros((1, 40)), np.repeat([0, 1], 20), unseen=0.025)
    assert (low[0], high[0]) == pytest.approx((-0.025 * Z, 0.025 * Z))


def test_two_rows_of_a_stratum_are_enough():
    parts = np.array([[0.1, 0.4, 0.2, 0.3]], dtype=np.float32)
    found = uncertainty.total(parts, np.array([0, 0, 1, 1]), limits=(-9, 9))
    assert -9 < found.low[0] < found.value[0] < found.high[0] < 9
    assert found.value.dtype == found.low.dtype == np.float64


def test_a_stratum_of_one_row_gets_the_limits():
    assert total(np.ones((1, 3)) / 3, np.array([0, 0, 1]), limits=(-1, 1)) == (1, -1, 1)


def test_contributions_are_those_of_selectivity_unless_told_otherwise(sweep):
    drops, concepts, concept_of_row = sweep
    plain, most = contributions(drops, concepts, concept_of_row)
    asked, same = contributions(drops, concepts, concept_of_row, 1.0, -1.0)
    assert np.array_equal(plain, asked)
    assert most == same


def test_a_total_by_the_published_formulas():
    """Three strata that scatter and lean in their own ways."""
    strata = np.repeat([2, 0, 1], [4, 6, 9])
    parts = np.random.default_rng(4).exponential(size=19) * np.array([1.0, -2.0, 0.5])[strata]
    scatter, third, spread = 0.0, 0.0, 0.0
    for stratum in range(3):
        own = parts[strata == stratum]
        n = len(own)
        part = n * own.var(ddof=1)
        scatter, spread = scatter + part, spread + part**2 / (n - 1)
        third += ((own - own.mean()) ** 3).sum()
    error, skew = np.sqrt(scatter), third / scatter**1.5
    point = stats.t.ppf(0.975, scatter**2 / spread)
    (value,), (low,), (high,) = total(parts[None], strata)

    def hall(t):
        return 3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1)

    assert value == pytest.approx(parts.sum())
    assert low == pytest.approx(value - error * max(point, hall(point)))
    assert high == pytest.approx(value + error * max(point, -hall(-point)))
    assert max(hall(point), -hall(-point)) > point, "the skew of all strata together makes one side longer"


def test_concepts_of_one_and_of_two_rows_are_drawn_beside_others(monkeypatch):
    monkeypatch.setattr(uncertainty, "_CHUNK", 9)  # of three and of four draws at a time, which leave a rest
    concept_of_row = np.array([5, 3, 7, 3, 7, 7])
    weights = stratified_weights(concept_of_row, 40, 1)
    assert {*weights[:, 0].tolist()} == {1.0}
    assert {tuple(row) for row in weights[:, [1, 3]].tolist()} == {(0.0, 2.0), (2.0, 0.0)}
    assert np.allclose(weights[:, [2, 4, 5]].sum(axis=1), 3)
    assert len({tuple(row) for row in weights[:, [2, 4, 5]].tolist()}) > 3


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_stratified_weights_depend_on_the_seed_and_stay_in_their_concept(monkeypatch, chunk):
    of_row = np.random.default_rng(0).permutation(np.repeat([0, 1, -1, 7], [5, 30, 12, 1]))
    whole = stratified_weights(of_row, 40, 3)
    monkeypatch.setattr(uncertainty, "_CHUNK", chunk)
    weights = stratified_weights(of_row, 40, 3)
    np.testing.assert_array_equal(weights, whole)
    assert weights.shape == (40, 48)
    assert weights.dtype == np.float32
    for concept, n in ((0, 5), (1, 30), (-1, 12), (7, 1)):
        own = weights[:, of_row == concept]
        np.testing.assert_allclose(own.sum(axis=1), n, rtol=1e-5)
        drawn = own * max(n - 1, 1) / n  # whole draws
        np.testing.assert_allclose(drawn, drawn.round(), atol=1e-4)
    assert not np.array_equal(weights, stratified_weights(of_row, 40, 4))


def test_a_concept_is_drawn_alike_whatever_other_concepts_there_are():
    alone = stratified_weights(np.full(20, 3), 50, 1)
    np.testing.assert_array_equal(stratified_weights(np.repeat([0, 3], [9, 20]), 50, 1)[:, 9:], alone)
    assert not np.array_equal(stratified_weights(np.full(20, 4), 50, 1), alone)


def test_resampled_sums_have_the_variance_of_total():
    generator = np.random.default_rng(4)
    of_row, parts = np.repeat([0, 1, 2], [4, 10, 30]), generator.normal(size=(2, 44))
    sums = parts @ stratified_weights(of_row, 20_000, 0).T
    exact = sum(n * parts[:, of_row == k].var(axis=1, ddof=1) for k, n in enumerate((4, 10, 30)))
    np.testing.assert_allclose(sums.var(axis=1), exact, rtol=0.05)
    np.testing.assert_allclose(sums.mean(axis=1), parts.sum(axis=1), atol=0.15)
