"""The head by its unembedding and the head by the model's own code give the same losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.hidden import hidden_of, record_blocks
from neuronlens.evaluation import lmhead
from neuronlens.evaluation.columns import update_between
from neuronlens.evaluation.lmhead import HiddenChange, LinearHead, StockHead, head_of
from neuronlens.evaluation.predictions import Predictions
from neuronlens.evaluation.unembedding import Unembedding
from tests.conftest import hooks
from tests.models import LANGUAGE_MODELS, LAYERS

ENCODED = [[4, 5, 6, 7], [8, 9], [10], [11, 12, 13, 14, 15, 16]]


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_both_heads_give_the_losses_of_the_model(checkpoints, family, side):
    model = checkpoints(family).model
    batch = collate(ENCODED, np.arange(4), pad_id=0, device="cpu", side=side)
    predictions = Predictions.of(batch)
    wanted = [
        torch.nn.functional.cross_entropy(
            model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids)[1:], reduction="none"
        )
        for ids in ENCODED
    ]
    with record_blocks(model, [LAYERS]) as outputs:
        model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False)
    output = outputs[LAYERS]
    hidden = predictions.pick(hidden_of(output))
    places, neurons = torch.tensor([1, 3, 6]), torch.tensor([0, 7])
    edited = hidden[places][:, None].clone()
    edited[..., neurons] = 2.0
    touched = torch.zeros(3, 16, dtype=torch.bool)
    touched[:, neurons] = True
    changes = [
        HiddenChange(places, edited, touched, output),
        HiddenChange(places, edited, torch.ones_like(touched), output),
        HiddenChange(places[:0], edited[:0], touched[:0], output),
    ]
    linear, stock = (head_of(model, batch, predictions, unembedding) for unembedding in (Unembedding.of(model), None))
    assert isinstance(linear, LinearHead)
    assert isinstance(stock, StockHead)
    found = linear.losses(linear.vectors(), changes)
    torch.testing.assert_close(found[0], torch.cat(wanted), rtol=1e-5, atol=1e-6)
    assert (found[1] - found[0][places]).abs().min() > 1e-3
    for own, other in zip(found, stock.losses(stock.vectors(), changes), strict=True):
        torch.testing.assert_close(own, other, rtol=3e-6, atol=1e-6)
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_does_not_follow_from_the_nearest_edit_may_follow_from_none(checkpoints, family, monkeypatch):
    """The nearest differs in one neuron, but that one is all that its norm leaves of a vector."""
    model = checkpoints(family).model
    batch = collate(ENCODED, np.arange(4), pad_id=0, device="cpu")
    predictions = Predictions.of(batch)
    with record_blocks(model, [LAYERS]) as outputs:
        model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False)
    output = outputs[LAYERS]
    hidden = predictions.pick(hidden_of(output))
    changes = []
    for neurons, value in (([0, 3, 7, 9], 1e5), ([0, 3, 7], 0.0)):
        edited, touched = hidden.clone(), torch.zeros(hidden.shape, dtype=torch.bool)
        edited[:, [0, 3, 7]], edited[:, neurons[3:]] = 0.0, value
        touched[:, neurons] = True
        changes.append(HiddenChange(torch.arange(len(hidden)), edited[:, None], touched, output))
    linear, stock = (head_of(model, batch, predictions, unembedding) for unembedding in (Unembedding.of(model), None))
    tried: list[bool] = []

    def update(*given):
        found = update_between(*given)
        tried.append(found is not None)
        return found

    monkeypatch.setattr(lmhead, "update_between", update)
    found = linear.losses(linear.vectors(), changes)
    assert tried == [True, False, True]
    for own, other in zip(found, stock.losses(stock.vectors(), changes), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
