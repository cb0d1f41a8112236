"""Batches hold every row once, keep to the budget, and pad without a trace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.activations.batching import collate, iterate, pad_id_of, token_budget_batches


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_every_row_once_within_the_budget_shortest_first(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    rows = np.concatenate(batches).tolist()
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in batches:
        padded = len(batch) * max(lengths[int(row)] for row in batch)
        assert padded <= budget or len(batch) == 1
    for one, two in itertools.pairwise(batches):
        assert lengths[int(two[0])] * (len(one) + 1) > budget, "no batch is closed while the next row fits"


def test_equal_lengths_keep_their_order():
    assert [batch.tolist() for batch in token_budget_batches([3, 1, 3, 1, 3], 6)] == [[1, 3], [0, 2], [4]]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["left", "right"]),
)
def test_the_mask_gives_back_the_rows(encoded, side):
    batch = collate(encoded, np.arange(len(encoded)), pad_id=0, device="cpu", side=side)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(encoded), max(map(len, encoded)))
    for row, tokens in enumerate(encoded):
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == tokens
        assert batch.position_ids[row][real].tolist() == list(range(len(tokens)))
        assert batch.attention_mask[row, 0 if side == "right" else -1] == 1


def test_iterate_yields_the_batches_in_order():
    encoded = [[1], [2, 2], [3]]
    batches = token_budget_batches([1, 2, 1], 2)
    found = [batch.input_ids.tolist() for batch in iterate(encoded, batches, pad_id=0, device="cpu")]
    assert found == [[[1], [3]], [[2, 2]]]


@pytest.mark.parametrize(("pad", "eos", "expected"), [(7, 3, 7), (None, 3, 3), (0, 3, 0), (None, None, 0)])
def test_any_token_will_do_for_padding(pad, eos, expected):
    tokenizer = type("Tokenizer", (), {"pad_token_id": pad, "eos_token_id": eos})()
    assert pad_id_of(tokenizer) == expected
