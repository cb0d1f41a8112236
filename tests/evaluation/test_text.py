"""Losses of ordinary text by short cuts are those of a whole pass with the same hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.evaluation.text import text_losses
from neuronlens.interventions.edit import edit
from neuronlens.sites import Site
from tests.conftest import hooks, sentences
from tests.evaluation.by_hand import masking
from tests.evaluation.test_suffix import SITES, erasing, gated, half
from tests.models import LANGUAGE_MODELS, LAYERS

LAST = Site(LAYERS - 1, "resid_post")


def documents(checkpoint):
    encoded = checkpoint.tokenizer(sentences(5, seed=3))["input_ids"]
    return encoded, collate(encoded, np.arange(5), pad_id=0, device="cpu")


def by_hand(model, encoded):
    """Sum of the losses of every token but the first, a document at a time."""
    found = []
    for ids in encoded:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")))
    return found


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "pooled"])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_every_edit_has_the_losses_of_a_whole_pass(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    model, (encoded, batch) = checkpoint.model, documents(checkpoint)
    edits = [half(model.config, site, operator, positions) for site in SITES for operator in ("zero", "dampen")]
    edits += [gated(half(model.config, LAST, positions=positions)), erasing(model.config, LAST, positions)]
    found = dict(text_losses(model, edits, batch))
    assert sorted(found) == list(range(len(edits) + 1))
    plain = by_hand(model, encoded)
    assert found[0].tolist() == pytest.approx(plain, rel=1e-5)
    moved = 0
    for index, item in enumerate(edits, start=1):
        with edit(model, item):
            whole = by_hand(model, encoded)
        assert found[index].tolist() == pytest.approx(whole, rel=1e-5), item.site
        moved += whole != pytest.approx(plain, rel=1e-4)
    # the last token of a document, which is what is pooled, predicts nothing of it
    assert moved == (len(edits) if positions == "all" else 0)
    assert hooks(model) == 0


@torch.inference_mode()
def test_only_tokens_that_an_edit_changes_go_through_the_head(checkpoints):
    """Of an edit that fires on some tokens, and of one that fires on none."""
    checkpoint = checkpoints("gpt2")
    model, (_, batch) = checkpoint.model, documents(checkpoint)
    values: list[torch.Tensor] = []
    listening = model.transformer.h[-1].register_forward_hook(
        lambda _, __, output: values.append((output[0] if isinstance(output, tuple) else output)[..., 3])
    )
    model(batch.input_ids, attention_mask=batch.attention_mask)
    listening.remove()
    own = values[0][:, :-1][batch.attention_mask[:, 1:].bool()]
    least = own.quantile(0.8)
    rare = masking(LAST, torch.tensor([3]), torch.full((1, 1), float(least)), torch.full((1, 1), 99.0), "zero")
    rows: list[int] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: rows.append(args[0].shape[:2].numel())
    )
    dict(text_losses(model, [rare.idle(), rare], batch))
    handle.remove()
    assert rows == [batch.input_ids.numel(), int((own >= least).sum())]
