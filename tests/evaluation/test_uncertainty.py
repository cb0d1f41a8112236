"""Intervals that cover as often as they say, and resamples that are paired and reproducible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.evaluation import uncertainty
from neuronlens.evaluation.uncertainty import bootstrap_means, interval, wilson

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


def test_resamples_depend_on_the_seed_alone():
    values = np.random.default_rng(0).normal(size=(3, 50))
    np.testing.assert_array_equal(bootstrap_means(values, 200, 7), bootstrap_means(values, 200, 7))
    assert not np.allclose(bootstrap_means(values, 200, 7), bootstrap_means(values, 200, 8))


def test_all_series_are_drawn_alike():
    """So that differences of series stay paired: here they are the same number in every resample."""
    values = np.random.default_rng(0).normal(size=50)
    means = bootstrap_means(np.stack([values, values + 1, 2 * values]), 300, 0)
    assert means.shape == (3, 300)
    np.testing.assert_allclose(means[1] - means[0], 1, rtol=1e-12)
    np.testing.assert_allclose(means[2], 2 * means[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bootstrap_means(values[None], 300, 0)[0], means[0], rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 50 * 7, 50 * 300])
def test_the_size_of_a_chunk_does_not_matter(monkeypatch, chunk):
    values = np.random.default_rng(0).normal(size=(2, 50))
    whole = bootstrap_means(values, 300, 3)
    monkeypatch.setattr(uncertainty, "_CHUNK", chunk)
    np.testing.assert_allclose(bootstrap_means(values, 300, 3), whole, rtol=1e-12)


def test_resampled_means_scatter_as_they_should():
    values = np.random.default_rng(0).exponential(size=(1, 400))
    means = bootstrap_means(values, 4000, 0)[0]
    assert means.mean() == pytest.approx(values.mean(), rel=0.01)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_a_constant_series_has_an_interval_without_width():
    low, high = interval(bootstrap_means(np.full((1, 30), 0.25), 200, 0))
    assert (low[0], high[0]) == (0.25, 0.25)


def test_the_interval_is_the_middle_95_percent():
    low, high = interval(np.arange(1001, dtype=np.float64)[None])
    assert (low[0], high[0]) == pytest.approx((25.0, 975.0))


def test_intervals_cover_the_truth_95_times_in_100():
    """A paired difference of two rates, on 300 draws of 200 rows."""
    generator = np.random.default_rng(5)
    covered = 0
    for draw in range(300):
        base = generator.random(200) < 0.8
        edited = base & (generator.random(200) < 0.7)
        means = bootstrap_means(np.stack([base, edited]).astype(np.float64), 400, draw)
        low, high = interval(means[0] - means[1])
        covered += low <= 0.8 * 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98
