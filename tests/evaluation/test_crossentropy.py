"""Losses by blocks of the vocabulary are those of cross_entropy on all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.activations import head
from neuronlens.evaluation.columns import ColumnUpdate, EntryUpdate, update_between
from neuronlens.evaluation.crossentropy import Change, cross_entropies, token_losses
from neuronlens.evaluation.unembedding import Unembedding

TOKENS, WIDTH, VOCABULARY = 9, 16, 101


def unembedding_of(*, cap=None, bias=False, spread=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(VOCABULARY, WIDTH, generator=generator) * spread).to(dtype)
    offset = torch.randn(VOCABULARY, generator=generator).to(dtype) if bias else None
    zeros = torch.zeros(WIDTH, dtype=dtype)
    rows = torch.zeros(VOCABULARY, 2, dtype=dtype)
    if bias:
        rows[:, 0] = offset
    return Unembedding(weight, offset, cap, zeros, zeros, rows)


def directly(unembedding, normed, tokens):
    logits = unembedding.capped(unembedding.linear(normed).float())
    return torch.nn.functional.cross_entropy(logits, tokens, reduction="none")


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(
    at_once=st.integers(1, VOCABULARY + 5),
    cap=st.sampled_from([None, 5.0]),
    bias=st.booleans(),
    spread=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    seed=st.integers(0, 99),
)
def test_any_block_gives_the_losses_of_whole_logits(at_once, cap, bias, spread, seed):
    """Spreads so large that a loss is hundreds of nats, too."""
    unembedding = unembedding_of(cap=cap, bias=bias, spread=spread, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    normed = torch.randn(TOKENS, WIDTH, generator=generator)
    tokens = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    everywhere, some = torch.arange(TOKENS), torch.tensor([0, 4, 7])
    edited = normed * 0.5
    edited[:, :3] = torch.randn(TOKENS, 3, generator=generator)
    touched = torch.zeros(TOKENS, WIDTH, dtype=torch.bool)
    touched[:, :3] = True
    apart = torch.eye(TOKENS, WIDTH, dtype=torch.bool)
    further = edited.masked_fill(apart, 1.0)
    columns = update_between(unembedding, normed, edited, touched, everywhere)
    entries = update_between(unembedding, edited, further, apart, everywhere)
    assert isinstance(columns, ColumnUpdate)
    assert isinstance(entries, EntryUpdate)
    changes = [
        Change(everywhere, further, entries, parent=1),
        Change(everywhere, edited, columns),
        Change(some, edited[some], update_between(unembedding, normed[some], edited[some], touched[some], some)),
        Change(some, edited[some]),
        Change(some[:0], edited[:0]),
        Change(everywhere, further, entries, parent=6),
        Change(everywhere, edited),
        Change(everywhere, further, update_between(unembedding, further, further, apart, everywhere), parent=0),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_LOGIT_BYTES", {"cpu": 4 * (WIDTH + 2) * at_once})
        plain, *found = cross_entropies(unembedding, normed, tokens, changes)
    one, two = directly(unembedding, edited, tokens), directly(unembedding, further, tokens)
    close = {"rtol": 3e-6, "atol": 3e-6 * max(1.0, 4 * spread)}
    torch.testing.assert_close(plain, directly(unembedding, normed, tokens), **close)
    for losses, wanted in zip(found, (two, one, one[some], one[some], one[:0], two, one, two), strict=True):
        torch.testing.assert_close(losses, wanted, **close)


@torch.inference_mode()
def test_losses_past_the_range_of_exponentials():
    unembedding = unembedding_of(spread=100.0)
    normed, tokens = torch.randn(TOKENS, WIDTH), torch.arange(TOKENS)
    expected = directly(unembedding, normed, tokens)
    assert expected.max() > 200
    torch.testing.assert_close(cross_entropies(unembedding, normed, tokens)[0], expected, rtol=1e-6, atol=1e-4)


@torch.inference_mode()
def test_a_broken_token_is_broken_alone():
    unembedding = unembedding_of()
    normed, tokens = torch.randn(TOKENS, WIDTH), torch.arange(TOKENS)
    normed[3] = torch.nan
    losses = cross_entropies(unembedding, normed, tokens)[0]
    assert losses.isnan().nonzero().tolist() == [[3]]


@torch.inference_mode()
@pytest.mark.parametrize("at_once", [7, VOCABULARY])
def test_logits_of_a_model_in_bfloat16_are_its_own(at_once, monkeypatch):
    monkeypatch.setattr(head, "_LOGIT_BYTES", {"cpu": 4 * TOKENS * at_once})
    unembedding = unembedding_of(dtype=torch.bfloat16, bias=True)
    normed, tokens = torch.randn(TOKENS, WIDTH).bfloat16(), torch.arange(TOKENS)
    found = cross_entropies(unembedding, normed, tokens)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, directly(unembedding, normed, tokens), rtol=1e-5, atol=1e-5)


def test_token_losses_are_cross_entropy():
    logits, tokens = torch.randn(TOKENS, VOCABULARY), torch.arange(TOKENS)
    expected = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    torch.testing.assert_close(token_losses(logits, tokens), expected)
