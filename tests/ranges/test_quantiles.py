"""Quantiles of sorted values are NumPy's, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.ranges.quantiles import sorted_quantiles
from neuronlens.ranges.statistics import QUANTILES


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.lists(st.floats(0, 1), max_size=5))
def test_sorted_quantiles_are_numpys_in_float64(seed, count, more):
    """Of ordinary neurons, of one with mean 2000 and std 0.5, and of one with ties; at any probability."""
    values = np.random.default_rng(seed).normal(size=(4, count))
    values[1] = 2000 + 0.5 * values[1]
    values[2] = np.round(values[2])
    values[3] *= 1e-30
    values = values.astype(np.float32)
    q = [0.0, 1.0, *QUANTILES, *more]
    found = sorted_quantiles(np.sort(values, axis=1), q)
    np.testing.assert_array_equal(found, np.quantile(values.astype(np.float64), q, axis=1))
