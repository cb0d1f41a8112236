"""The selection: ranges that hold what they promise, doses counted by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.selection import _inside, fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from tests.ranges.sample import (
    CONCEPTS,
    DOSES,
    GATES,
    KINDS,
    SITE,
    activations,
    discriminative_bounds,
    members,
    of_values,
    others,
    parts_of,
    quantile_share,
    recount,
    same,
    statistics,
    tokens,
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_top_neurons_of_a_ranking_are_taken(kind):
    ours = statistics()
    for saliency, top in product(("mean_abs", "d_prime", "separation", "random"), (0.1, 0.5)):
        found = fit_ranges(ours, "b", saliency=saliency, top=top, kind=kind)
        np.testing.assert_array_equal(found.neurons, top_set(ours.saliency(saliency, "b"), top))
        assert (found.concept, found.saliency, found.top, found.kind, found.base) == ("b", saliency, top, kind, kind)
        assert (found.gate, found.role, found.label) == ("none", "sweep", kind)


def test_gaussian_bounds_are_mean_and_tau_stds():
    found = activations()
    ranges = fit_ranges(fit_statistics(found, SITE), "b", saliency="mean_abs", top=0.5, tau=1.5)
    own = members(found, "b").astype(np.float64)
    expected = own.mean(1)[ranges.neurons], own.std(1, ddof=0)[ranges.neurons]
    np.testing.assert_allclose(ranges.lower[:, 0], expected[0] - 1.5 * expected[1], rtol=1e-6)
    np.testing.assert_allclose(ranges.upper[:, 0], expected[0] + 1.5 * expected[1], rtol=1e-6)
    assert ranges.lower.dtype == ranges.upper.dtype == np.float32
    assert ranges.lower.shape == (6, 1)


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-7, 2001.7, 0.0])
def test_a_constant_neuron_lies_in_its_own_range_and_in_the_full_one(value):
    """Bounds are inclusive. The reference's infinity times zero is NaN and masks nothing."""
    found = activations(constant=())
    found.values[SITE][4] = value
    statistics = fit_statistics(found, SITE)
    for kind, tau in (("gaussian", 2.0), ("full", None)):
        ranges = fit_ranges(statistics, "a", top=1.0, kind=kind, tau=tau)
        at = ranges.neurons.tolist().index(4)
        assert ranges.lower[at, 0] <= np.float32(value) <= ranges.upper[at, 0]
        assert (ranges.dose_target[at], ranges.dose_complement[at]) == (1.0, 1.0)


def test_a_full_range_masks_everything_and_knows_no_tau():
    ranges = fit_ranges(fit_statistics(activations(), SITE), "c", top=0.5, kind="full", tau=2.0)
    assert ranges.tau is None
    assert (ranges.dose_target == 1).all()
    assert (ranges.dose_complement == 1).all()
    assert np.isneginf(ranges.lower).all()
    assert np.isposinf(ranges.upper).all()


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_quantile_ranges_hold_the_nominal_share_of_the_concept(tau):
    """Whatever the shape of its distribution; the Gaussian range does not, on skewed neurons."""
    generator = np.random.default_rng(0)
    values = np.exp(generator.normal(0, 1.5, (6, 1200)))
    ours = fit_statistics(of_values(values, np.repeat(CONCEPTS, 400)), SITE)
    found = fit_ranges(ours, "a", top=1.0, kind="quantile", tau=tau)
    np.testing.assert_allclose(found.dose_target, quantile_share(tau), atol=2 / 400)
    own = ours.values[0][found.neurons].astype(np.float64)
    share = quantile_share(tau)
    expected = np.quantile(own, [(1 - share) / 2, (1 + share) / 2], axis=1)
    np.testing.assert_allclose(np.stack([found.lower[:, 0], found.upper[:, 0]]), expected, rtol=1e-6)
    gaussian = fit_ranges(ours, "a", top=1.0, kind="gaussian", tau=tau)
    assert np.abs(gaussian.dose_target - share).max() > 2 * 2 / 400


def test_discriminative_ranges_avoid_complement_and_foreign_tokens():
    ours = statistics(per=60)
    for threshold in (1.0, 2.0):
        found = fit_ranges(ours, "c", top=0.7, kind="discriminative", threshold=threshold)
        bounds = discriminative_bounds(*(part[found.neurons] for part in parts_of(ours, "c")), threshold)
        np.testing.assert_array_equal(found.lower, bounds[0])
        np.testing.assert_array_equal(found.upper, bounds[1])
        assert (found.tau, found.threshold) == (None, threshold)


def test_the_dose_of_two_intervals_is_of_both():
    drawn = np.random.default_rng(0)
    values = drawn.normal(0, 0.5, (3, 300))
    values[:, :100] += np.where(drawn.random(100) < 0.4, -3, 3)
    ours = fit_statistics(of_values(values, np.repeat(CONCEPTS, 100)), SITE, ordinary=tokens(3))
    found = fit_ranges(ours, "a", top=1.0, kind="discriminative")
    assert found.lower.shape == (3, 2)
    expected = recount(ours, "a", found)
    assert min(expected[0]) > 0.9
    for name, dose in zip(DOSES, expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), dose)


def test_what_has_no_effect_is_not_recorded():
    ours = statistics()
    recorded = {kind: fit_ranges(ours, "a", top=0.5, kind=kind, tau=2.0, threshold=3.0) for kind in KINDS}
    assert {kind: (found.tau, found.threshold) for kind, found in recorded.items()} == {
        "gaussian": (2.0, None),
        "quantile": (2.0, None),
        "discriminative": (None, 3.0),
        "full": (None, None),
    }


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_doses_are_shares_counted_one_by_one(kind, gate, concept):
    """With a gate, of what is in range and passes; tokens in rows of the concept are not held against it."""
    ours = statistics(per=40)
    for tau in (0.3, 1.0, 2.5):
        found = fit_ranges(ours, concept, top=0.7, kind=kind, tau=tau, gate=gate)
        assert (found.agreement is None) == (gate == "none")
        assert found.label == (kind if gate == "none" else f"{kind}+agreement")
        for name, share in zip(DOSES, recount(ours, concept, found), strict=True):
            np.testing.assert_allclose(getattr(found, name), share, atol=1e-12, err_msg=name)


def test_a_value_in_any_interval_is_inside():
    lower, upper = np.array([[0.0, 10.0], [5.0, np.inf]]), np.array([[2.0, 16.0], [6.0, -np.inf]])
    values = np.array([[0.0, 2.0, 5.0, 10.0, 16.0, 17.0], [5.0, 6.0, 0.0, 7.0, np.inf, -np.inf]])
    found = _inside(values, lower, upper)
    assert found.tolist() == [[True, True, False, True, True, False], [True, True, False, False, False, False]]


def test_a_dose_on_tokens_nobody_read_is_not_known():
    found = fit_ranges(statistics(with_tokens=False), "a", top=0.5)
    assert np.isnan(found.dose_ordinary).all()
    assert not np.isnan(found.dose_complement).any()


def test_operators_get_the_numbers_of_the_fit_rows():
    found = activations()
    ours = fit_statistics(found, SITE, ordinary=tokens())
    ranges = fit_ranges(ours, "a", top=0.5)
    own, rest = (part(found, "a").astype(np.float64)[ranges.neurons] for part in (members, others))
    both = np.concatenate([own, rest], axis=1)
    expected = {
        "mean": own.mean(axis=1),
        "std": own.std(axis=1),
        "complement_mean": rest.mean(axis=1),
        "complement_std": rest.std(axis=1),
        "pooled_mean": both.mean(axis=1),
    }
    for name, numbers in expected.items():
        np.testing.assert_allclose(getattr(ranges, name), numbers, rtol=1e-10, atol=1e-12, err_msg=name)


def test_what_is_not_asked_for_is_the_tuned_papers():
    """Of twenty neurons the two that d' puts first, ranges of 2.5 deviations, and no gate."""
    ours = statistics(neurons=20)
    found = fit_ranges(ours, "b")
    assert (found.saliency, found.top, found.kind, found.tau, found.threshold) == (
        "d_prime",
        0.1,
        "gaussian",
        2.5,
        None,
    )
    assert (found.gate, found.role, found.base, found.label) == ("none", "sweep", "gaussian", "gaussian")
    assert len(found.neurons) == 2
    dense = fit_ranges(ours, "b", kind="discriminative")
    assert (dense.tau, dense.threshold) == (None, 1.0)
    assert same(dense, fit_ranges(ours, "b", kind="discriminative", threshold=1.0, tau=1.0))
    assert fit_ranges(ours, "b", kind="full").lower.dtype == np.float32
