"""The logits under an edit follow from others by what it touches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuronlens.evaluation.columns import Block, ColumnUpdate, EntryUpdate, update_between
from neuronlens.evaluation.unembedding import Unembedding
from tests.models import LANGUAGE_MODELS, random_model

NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
WIDTH, TOKENS = 16, 6


def made(family, seed=0):
    """A model with a final norm whose gain and shift are not those of the start, and its unembedding."""
    model = random_model(family)
    norm = model.get_submodule(NORMS.get(family, "model.norm"))
    generator = torch.Generator().manual_seed(seed)
    for parameter in norm.parameters():
        parameter.data.copy_(torch.randn(WIDTH, generator=generator))
    return norm, Unembedding.of(model)


def first_neurons(count):
    """[N, D] bool, the same of every token."""
    return (torch.arange(WIDTH) < count).expand(TOKENS, -1)


def zeroed(hidden, touched):
    return hidden.masked_fill(touched, 0)


def updated(unembedding, normed, update, start=100, stop=300, level=1):
    """Logits of a part of the vocabulary, from those in the second level of a block."""
    part = slice(start, stop)
    block = Block(torch.full((WIDTH + 2 + 2 * len(normed), stop - start), torch.nan), WIDTH + 2, len(normed))
    unembedding.columns(part, block.columns)
    block.level(level).copy_(unembedding.linear(normed, part))
    rows = len(update.rows) if isinstance(update, ColumnUpdate) else len(update.starts)
    return update.logits(block, level, torch.empty(rows, stop - start))


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@settings(max_examples=25, deadline=None)
@given(
    share=st.sampled_from([0.0, 0.05, 0.3, 0.6]),
    everywhere=st.booleans(),
    spread=st.floats(0.1, 100),
    mean=st.floats(-3, 3),
    by=st.floats(-5, 5),
    seed=st.integers(0, 99),
)
def test_updated_logits_are_those_of_the_edited_vectors(family, share, everywhere, spread, mean, by, seed):
    norm, unembedding = made(family, seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(TOKENS, WIDTH, generator=generator) + mean) * spread
    touched = (torch.rand(1 if everywhere else TOKENS, WIDTH, generator=generator) < share).expand(TOKENS, -1)
    before, after = norm(hidden), norm(torch.where(touched, by * hidden, hidden))
    rows = torch.tensor([0, 2, 3, 5])
    update = update_between(unembedding, before[rows], after[rows], touched[rows], rows)
    if update is None:  # so much is touched that the product is no more work
        assert share >= 0.3
        return
    expected = unembedding.linear(after)[rows]
    close = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(updated(unembedding, before, update), expected[:, 100:300], **close)


@torch.inference_mode()
def test_tokens_with_few_touched_neurons_each_are_sums_of_entries():
    norm, unembedding = made("gpt2")
    hidden = torch.randn(TOKENS, WIDTH)
    of_their_own = torch.eye(TOKENS, WIDTH, dtype=torch.bool)
    for touched, kind in ((of_their_own, EntryUpdate), (first_neurons(2), ColumnUpdate)):
        before, after = norm(hidden), norm(zeroed(hidden, touched))
        assert isinstance(update_between(unembedding, before, after, touched, torch.arange(TOKENS)), kind)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_does_not_follow_from_what_is_touched_is_no_update(family):
    norm, unembedding = made(family)
    hidden, rows = torch.randn(TOKENS, WIDTH), torch.arange(TOKENS)
    touched = first_neurons(5)
    before, after = norm(hidden), norm(zeroed(hidden, touched))
    less = touched.clone()
    less[3, 4] = False
    assert update_between(unembedding, before, after, touched, rows) is not None
    assert update_between(unembedding, before, after, less, rows) is None
    after[2] = torch.nan
    assert update_between(unembedding, before, after, touched, rows) is None


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_that_takes_nearly_all_of_a_vector_is_no_update(family):
    """What is left is scaled up, and the roundings of the logits with it."""
    norm, unembedding = made(family)
    hidden, rows = torch.randn(TOKENS, WIDTH), torch.arange(TOKENS)
    touched = first_neurons(1)
    for size, kept in ((10.0, True), (10_000.0, False)):
        hidden[:, 0] = size
        before, after = norm(hidden), norm(zeroed(hidden, touched))
        assert (update_between(unembedding, before, after, touched, rows) is not None) == kept


@torch.inference_mode()
def test_another_norm_is_no_update():
    """One that sees more of a vector than its mean and its spread."""
    _, unembedding = made("llama")
    norm = nn.Sequential(nn.RMSNorm(WIDTH), nn.Tanh())
    hidden = torch.randn(TOKENS, WIDTH)
    touched = first_neurons(5)
    before, after = norm(hidden), norm(zeroed(hidden, touched))
    assert update_between(unembedding, before, after, touched, torch.arange(TOKENS)) is None


@torch.inference_mode()
def test_no_update_where_it_would_not_pay_or_not_be_exact():
    norm, unembedding = made("llama")
    hidden, rows = torch.randn(TOKENS, WIDTH), torch.arange(TOKENS)
    before, after = norm(hidden), norm(hidden * torch.linspace(1, 2, WIDTH))
    for count in (WIDTH, WIDTH - 1):
        assert update_between(unembedding, before, after, first_neurons(count), rows) is None
    assert update_between(unembedding, before.bfloat16(), before.bfloat16(), first_neurons(0), rows) is None
