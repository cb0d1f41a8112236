"""How far neurons moved: the distance, its bound over all neurons, and the noise floor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from neuronlens.comparison.drift import Gaussians, drift, range_states
from neuronlens.sites import Site

SITE = Site(0, "resid_post")


def test_the_distance_is_that_of_the_quantiles_of_two_gaussians() -> None:
    """The 2-Wasserstein distance in one dimension is the L2 distance of quantile functions."""
    a, b = Gaussians(np.array([1.0]), np.array([2.0])), Gaussians(np.array([3.5]), np.array([0.5]))
    at = (np.arange(200_000) + 0.5) / 200_000
    gap = norm.ppf(at, 1.0, 2.0) - norm.ppf(at, 3.5, 0.5)
    assert a.to(b)[0] == pytest.approx(np.sqrt(np.mean(gap**2)) / np.sqrt((4 + 0.25) / 2), rel=1e-4)


def test_moments_of_resamples_are_those_of_the_repeated_rows() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(2000.0, 0.5, (4, 12)).astype(np.float32)
    weights = generator.integers(0, 4, (3, 12)).astype(np.float64)
    found = Gaussians.of(values, weights)
    for i, counts in enumerate(weights.astype(int)):
        repeated = np.repeat(values.astype(np.float64), counts, axis=1)
        assert found.mean[i] == pytest.approx(repeated.mean(axis=1), abs=1e-9)
        assert found.std[i] == pytest.approx(repeated.std(axis=1), rel=1e-6)


def test_constants_are_no_distance_apart_or_infinitely_far() -> None:
    same, other = Gaussians(np.array([1.0, 1.0]), np.zeros(2)), Gaussians(np.array([1.0, 2.0]), np.zeros(2))
    assert same.to(other).tolist() == [0.0, np.inf]


def test_an_unchanged_checkpoint_moves_nothing_for_sure() -> None:
    values = np.random.default_rng(1).normal(size=(20, 40)).astype(np.float32)
    found = drift(SITE, "sports", values, values.copy(), 0)
    assert found.distance.max() == 0.0
    assert found.stray == 0.0
    assert found.floor > 0.0
    assert not found.moved.any()
    assert not found.widened.any()


def test_other_rows_of_one_checkpoint_stay_below_the_floor_19_times_in_20() -> None:
    """A/A: rows are drawn anew, the checkpoint is the same; a false alarm is any of the neurons beyond the floor."""
    generator = np.random.default_rng(2)
    scales = generator.lognormal(size=(64, 1))
    alarms, rounds = 0, 200
    for i in range(rounds):
        first, second = (generator.normal(0.0, scales, (64, 60)) for _ in range(2))
        found = drift(SITE, "sports", first, second, i)
        alarms += bool((found.distance > found.floor).any())
    assert alarms <= 0.05 * rounds + 2 * np.sqrt(0.05 * 0.95 * rounds)


def test_planted_moves_are_found_and_named() -> None:
    generator = np.random.default_rng(3)
    before = generator.normal(size=(50, 200))
    after = before + generator.normal(scale=0.05, size=before.shape)
    after[7] += 2.0
    after[11] *= 3.0
    after[13] *= 0.3
    found = drift(SITE, "sports", before, after, 0)
    assert np.flatnonzero(found.moved).tolist() == [7]
    assert np.flatnonzero(found.widened > 0).tolist() == [11]
    assert np.flatnonzero(found.widened < 0).tolist() == [13]
    states = range_states([7, 11, 13, 1, 2], [7, 11, 13, 1, 3], found)
    assert states == {1: "kept", 2: "vanished", 3: "appeared", 7: "moved", 11: "widened", 13: "narrowed"}


def test_the_largest_distance_is_covered_by_its_bound() -> None:
    """Rows of a population whose drift is known: the largest measured distance strays from the largest true one less than it says."""
    generator = np.random.default_rng(4)
    covered = 0
    for i in range(100):
        common = generator.normal(size=(30, 80))
        before, after = common, common + generator.normal(scale=0.2, size=common.shape)
        after[0] += 1.0
        found = drift(SITE, "sports", before, after, i)
        true = np.hypot(1.0, np.sqrt(1.04) - 1) / np.sqrt(2.04 / 2)
        covered += abs(found.distance.max() - true) <= found.stray
    assert covered >= 88
