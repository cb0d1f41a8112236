"""Which tokens of padded documents are predicted, and the sums of their losses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.activations.batching import collate
from neuronlens.evaluation.predictions import Predictions

DOCUMENTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5)


@pytest.mark.parametrize("side", ["left", "right"])
@given(DOCUMENTS)
def test_every_token_but_the_first_is_predicted_by_the_one_before_it(side, documents):
    batch = collate(documents, range(len(documents)), pad_id=0, device="cpu", side=side)
    found = Predictions.of(batch)
    expected = [(i, a, b) for i, ids in enumerate(documents) for a, b in pairwise(ids)]
    picked = zip(found.documents, found.pick(batch.input_ids), found.following, strict=True)
    assert [tuple(map(int, entry)) for entry in picked] == expected


@given(DOCUMENTS)
def test_losses_are_summed_by_document(documents):
    found = Predictions.of(collate(documents, range(len(documents)), pad_id=0, device="cpu"))
    sums = found.per_document(torch.arange(len(found.following), dtype=torch.float32))
    start = 0
    for ids, value in zip(documents, sums.tolist(), strict=True):
        assert value == sum(range(start, start + len(ids) - 1))
        start += len(ids) - 1
