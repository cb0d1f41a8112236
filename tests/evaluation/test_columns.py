"""The logits under an edit of few neurons follow from the unedited ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuronlens.evaluation.columns import ColumnUpdate
from neuronlens.evaluation.unembedding import Unembedding
from tests.models import LANGUAGE_MODELS, random_model

NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
WIDTH = 16


def made(family, seed=0):
    """A model with a final norm whose gain and shift are not those of the start, and its unembedding."""
    model = random_model(family)
    norm = model.get_submodule(NORMS.get(family, "model.norm"))
    generator = torch.Generator().manual_seed(seed)
    for parameter in norm.parameters():
        parameter.data.copy_(torch.randn(WIDTH, generator=generator))
    return norm, Unembedding.of(model)


def updated(unembedding, normed, update, block=slice(None)):
    return unembedding.linear(normed)[:, block] * update.scale + update.coefficients @ update.columns(
        unembedding, block
    )


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    spread=st.floats(0.1, 100),
    mean=st.floats(-3, 3),
    by=st.floats(-5, 5),
    seed=st.integers(0, 99),
)
def test_updated_logits_are_those_of_the_edited_vectors(family, count, spread, mean, by, seed):
    norm, unembedding = made(family, seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(6, WIDTH, generator=generator) + mean) * spread
    neurons = torch.randperm(WIDTH, generator=generator)[:count]
    edited = hidden.clone()
    edited[:, neurons] *= by
    before, after = norm(hidden), norm(edited)
    update = ColumnUpdate.between(unembedding, before, after, neurons)
    expected = unembedding.linear(after)
    block = slice(100, 300)
    torch.testing.assert_close(
        updated(unembedding, before, update, block), expected[:, block], rtol=0, atol=5e-6 * float(expected.abs().max())
    )


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_does_not_follow_from_the_touched_neurons_is_no_update(family):
    norm, unembedding = made(family)
    hidden = torch.randn(6, WIDTH)
    edited = hidden.clone()
    edited[:, :5] = 0
    before, after = norm(hidden), norm(edited)
    few = torch.arange(4)
    assert ColumnUpdate.between(unembedding, before, after, torch.arange(5)) is not None
    assert ColumnUpdate.between(unembedding, before, after, few) is None
    after[2] = torch.nan
    assert ColumnUpdate.between(unembedding, before, after, torch.arange(5)) is None


@torch.inference_mode()
def test_another_norm_is_no_update():
    """One that sees more of a vector than its mean and its spread."""
    _, unembedding = made("llama")
    norm = nn.Sequential(nn.RMSNorm(WIDTH), nn.Tanh())
    hidden = torch.randn(6, WIDTH)
    edited = hidden.clone()
    edited[:, :5] = 0
    assert ColumnUpdate.between(unembedding, norm(hidden), norm(edited), torch.arange(5)) is None


@torch.inference_mode()
def test_no_update_where_it_would_not_pay_or_not_be_exact():
    norm, unembedding = made("llama")
    hidden = torch.randn(6, WIDTH)
    before, after = norm(hidden), norm(hidden * torch.linspace(1, 2, WIDTH))
    assert ColumnUpdate.between(unembedding, before, after, torch.arange(WIDTH)) is None
    assert ColumnUpdate.between(unembedding, before, after, torch.arange(WIDTH - 1)) is None
    assert ColumnUpdate.between(unembedding, before.bfloat16(), before.bfloat16(), torch.arange(3)) is None
