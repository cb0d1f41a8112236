"""Blocks cover every neuron once, in order, and do not show in what is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.streaming import blocks as module
from neuronlens.streaming.blocks import blocks
from neuronlens.streaming.histogram import Histogram
from neuronlens.streaming.moments import Moments


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 10_000))
def test_blocks_cover_all_neurons_and_are_no_larger_than_they_may_be(neurons, values, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", size)
        parts = [np.arange(neurons)[cut] for cut in blocks(neurons, values)]
    assert np.concatenate(parts).tolist() == list(range(neurons))
    assert all(len(part) == 1 or 8 * len(part) * values <= size for part in parts if len(part) and values)


@pytest.mark.parametrize("kind", [Moments, Histogram])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_blocks_do_not_show(monkeypatch, kind, count):
    values = np.random.default_rng(0).exponential(size=(17, count)).astype(np.float32)
    whole = kind.of(values)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 50 * 3)
    parts = kind.of(values)
    for field in dataclasses.fields(kind):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name), err_msg=field.name)
