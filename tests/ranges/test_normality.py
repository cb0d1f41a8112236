"""The two tests of normality: SciPy's statistics, p-values that keep their level, and an answer for neurons that have none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.ranges import normality as module
from neuronlens.ranges.normality import MINIMUM_ROWS, adjusted, anderson_darling, kolmogorov_smirnov, normality
from neuronlens.streaming import blocks
from neuronlens.streaming.moments import Moments

FIELDS = ("ks", "ks_p", "ad", "ad_p")


@st.composite
def neurons(draw):
    """[4, n] of three shapes: ordinary, mean 2000 and std 0.5, tiny, and one full of ties."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([generator.normal, generator.exponential, generator.standard_cauchy]))
    values = shape(size=(4, draw(st.integers(MINIMUM_ROWS, 80))))
    values[1] = 2000 + 0.5 * values[1]
    values[2] *= 1e-5
    values[3] = np.round(values[3], 1)
    values[3, 0] += 1  # never constant
    return values.astype(draw(st.sampled_from([np.float32, np.float64])))


@settings(deadline=None, max_examples=100)
@given(neurons())
@pytest.mark.filterwarnings("ignore:As of SciPy 1.17, users must choose:FutureWarning")
def test_statistics_are_scipys(values):
    found = normality(values)
    for at, row in enumerate(values.astype(np.float64)):
        expected = scipy.stats.kstest(row, "norm", args=(row.mean(), row.std(ddof=1))).statistic
        assert found.ks[at] == pytest.approx(expected, rel=0, abs=1e-10)  # a mean of 2000 takes four digits of them
        assert found.ad[at] == pytest.approx(scipy.stats.anderson(row, "norm").statistic, rel=1e-10, abs=1e-10)


@settings(deadline=None, max_examples=100)
@given(neurons(), st.floats(0.01, 100), st.floats(-100, 100), st.booleans())
def test_shift_scale_and_sign_change_nothing(values, scale, shift, flip):
    exact = values[[0, 3]].astype(np.float64)
    one, two = normality(exact), normality((-exact if flip else exact) * scale + shift)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-5, atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(neurons())
def test_p_values_are_probabilities(values):
    found = normality(values)
    for p in (found.ks_p, found.ad_p):
        assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize("n", [5, 10, 30, 100, 400])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_normal_neurons_are_rejected_at_the_level(n, level):
    """Within 4 binomial standard deviations. At n = 5 both are conservative: 0.7 % at 1 %."""
    count = 20_000
    found = normality(np.random.default_rng(n).normal(3, 0.2, size=(count, n)))
    error = 4 * np.sqrt(level * (1 - level) / count)
    for p in (found.ks_p, found.ad_p):
        share = (p <= level).mean()
        assert share <= level + error
        assert share >= (level - error if n > 5 else level / 2)


@pytest.mark.parametrize("n", [5, 10, 30, 100, 400])
def test_anderson_darling_at_the_published_percentage_points(n):
    """D'Agostino and Stephens 1986, table 4.7, case 3: of the modified statistic."""
    statistic = np.array([0.561, 0.631, 0.752, 0.873, 1.035]) / (1 + 0.75 / n + 2.25 / n**2)
    np.testing.assert_allclose(module._ad_p(statistic, n), [0.15, 0.1, 0.05, 0.025, 0.01], rtol=0.03)


def test_anderson_darling_p_is_the_published_formula_in_every_branch():
    """D'Agostino and Stephens 1986, table 4.9, case 3; 1 - p on the two branches of small statistics."""
    published = {
        (0.01, 0.1, 0.15, 0.199): lambda a: 1 - np.exp(-13.436 + 101.14 * a - 223.73 * a**2),
        (0.2, 0.25, 0.3, 0.339): lambda a: 1 - np.exp(-8.318 + 42.796 * a - 59.938 * a**2),
        (0.34, 0.4, 0.5, 0.599): lambda a: np.exp(0.9177 - 4.279 * a - 1.38 * a**2),
        (0.6, 0.7, 1.0, 2.0, 10.0, 100.0, 153.0): lambda a: np.exp(1.2937 - 5.709 * a + 0.0186 * a**2),
    }
    for modified, formula in published.items():
        for n in (5, 30):
            statistic = np.array(modified) / (1 + 0.75 / n + 2.25 / n**2)
            # rounding may carry the ends of a branch into the next one, which meets it
            inner = slice(1, None)
            np.testing.assert_allclose(module._ad_p(statistic, n)[inner], formula(np.array(modified))[inner], rtol=1e-9)
            np.testing.assert_allclose(module._ad_p(statistic, n)[0], formula(modified[0]), rtol=0, atol=4e-3)
    vertex = 5.709 / (2 * 0.0186)  # beyond it the parabola would turn upwards
    least = np.exp(1.2937 - 5.709 * vertex + 0.0186 * vertex**2)
    np.testing.assert_allclose(module._ad_p(np.array([200.0, 1e9]), 10**9), least, rtol=1e-6)


def test_kolmogorov_smirnov_p_goes_through_the_simulated_null_and_on_beyond_it():
    n = 50
    scale = np.sqrt(n) + 0.163 + 0.485 / np.sqrt(n)
    p, modified = module.KS_NULL.T
    np.testing.assert_allclose(module._ks_p(modified / scale, n), p, rtol=1e-9)
    half_way = np.sqrt((modified[3] ** 2 + modified[4] ** 2) / 2)
    assert module._ks_p(np.array([half_way / scale]), n)[0] == pytest.approx(np.sqrt(p[3] * p[4]), rel=1e-9)
    far = modified[-1] * np.array([1.01, 1.5, 2.0])
    expected = np.log(p[-1]) - module.KS_TAIL * (far**2 - modified[-1] ** 2)
    np.testing.assert_allclose(np.log(module._ks_p(far / scale, n)), expected, rtol=1e-9)


def test_a_neuron_varies_if_one_row_differs():
    """Be it the first in order or the last."""
    ordered = np.tile(np.arange(1.0, 2.0), (3, 12))
    ordered[0, 0], ordered[1, -1] = 0.0, 2.0
    decided = ~np.isnan(module.sorted_normality(ordered).ks)
    assert decided.tolist() == [True, True, False]


def test_the_far_tail_keeps_its_level_where_jarque_bera_does_not():
    values = np.random.default_rng(2).normal(size=(100_000, 30))
    found, asymptotic = normality(values), Moments.of(values).jarque_bera
    for p in (found.ks_p, found.ad_p):
        assert 60 <= (p <= 1e-3).sum() <= 140
    assert (asymptotic <= 1e-3).sum() > 500
    assert (asymptotic <= 0.05).mean() < 0.035


@pytest.mark.parametrize(("shape", "power"), [("exponential", 1.0), ("uniform", 0.5), ("laplace", 0.5)])
def test_other_shapes_are_found_out(shape, power):
    found = normality(getattr(np.random.default_rng(3), shape)(size=(500, 100)))
    for p in (found.ks_p, found.ad_p):
        assert (p <= 0.05).mean() >= power


def test_p_values_reach_as_far_as_a_correction_over_thousands_of_neurons_needs():
    found = normality(np.random.default_rng(4).exponential(size=(50, 400)))
    assert (found.ks_p < 1e-7).all()
    assert (found.ad_p < 1e-20).all()


@pytest.mark.parametrize("n", [5, 30, 400])
def test_p_falls_as_the_statistic_grows(n):
    ks, ad = np.linspace(0, 1, 2000), np.linspace(0, 500, 50_000)
    assert (np.diff(module._ks_p(ks, n)) <= 0).all()
    # the published branches meet to within this
    assert (np.diff(module._ad_p(ad, n)) <= 0.004).all()
    assert 0 <= module._ad_p(ad, n)[-1] < 1e-100


@pytest.mark.parametrize("outlier", [1e3, 1e9, 1e30])
def test_an_outlier_however_far_has_an_answer(outlier):
    values = np.random.default_rng(5).normal(size=(1, 200)).astype(np.float32)
    values[0, 7] = outlier
    found = normality(values)
    assert all(np.isfinite(getattr(found, name)).all() for name in FIELDS)
    assert max(found.ks_p[0], found.ad_p[0]) < 1e-30


@settings(deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.integers(MINIMUM_ROWS, 60))
def test_a_constant_neuron_is_not_decided_and_spoils_no_other(value, n):
    values = np.random.default_rng(n).normal(size=(3, n)).astype(np.float32)
    alone = normality(values[[0, 2]])
    values[1] = value
    found = normality(values)
    for name in FIELDS:
        assert np.isnan(getattr(found, name)).tolist() == [False, True, False]
        np.testing.assert_allclose(getattr(found, name)[[0, 2]], getattr(alone, name), rtol=1e-12)


@pytest.mark.parametrize("n", range(MINIMUM_ROWS))
def test_few_rows_decide_nothing(n):
    found = normality(np.random.default_rng(0).normal(size=(3, n)))
    assert all(np.isnan(getattr(found, name)).all() for name in FIELDS)


def test_chunks_of_neurons_do_not_show(monkeypatch):
    values = np.random.default_rng(6).exponential(size=(17, 50))
    whole = normality(values)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 50 * 3)
    parts = normality(values)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_values_are_left_as_they_were():
    values = np.random.default_rng(7).normal(size=(5, 20))
    before = values.copy()
    normality(values)
    np.testing.assert_array_equal(values, before)


def test_each_test_alone_is_the_one_of_both():
    values = np.random.default_rng(8).normal(size=(5, 20))
    found = normality(values)
    np.testing.assert_array_equal(kolmogorov_smirnov(values), (found.ks, found.ks_p))
    np.testing.assert_array_equal(anderson_darling(values), (found.ad, found.ad_p))


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(np.nan), st.floats(0, 1)), max_size=30))
def test_adjusted_is_benjamini_hochberg_of_what_is_decided(p):
    given_p = np.array(p, dtype=np.float64)
    found = adjusted(given_p)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(given_p))
    decided = given_p[~np.isnan(given_p)]
    # step-up by its definition: the smallest m p_(j) / j over j >= i
    order = np.sort(decided)
    steps = [
        min(len(order) * order[j] / (j + 1) for j in range(np.searchsorted(order, one, "right") - 1, len(order)))
        for one in decided
    ]
    np.testing.assert_allclose(found[~np.isnan(given_p)], np.minimum(steps, 1), rtol=1e-12)


@pytest.mark.parametrize("field", ["ks_p", "ad_p"])
@pytest.mark.parametrize("level", [0.05, 0.1])
def test_false_discoveries_stay_under_the_level(field, level):
    """900 normal and 100 exponential neurons, and a constant one."""
    false, power = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        values = np.concatenate(
            [generator.normal(size=(900, 40)), generator.exponential(size=(100, 40)), np.ones((1, 40))]
        )
        rejected = adjusted(getattr(normality(values), field)) <= level
        false.append(rejected[:900].sum() / max(1, rejected.sum()))
        power.append(rejected[900:1000].mean())
        assert not rejected[1000]
    assert np.mean(false) <= level + 3 * np.std(false) / np.sqrt(len(false))
    assert np.mean(power) > 0.5
