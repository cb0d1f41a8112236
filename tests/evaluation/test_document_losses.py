"""Losses of documents, and the perplexity that they add up to, are those of the model itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuronlens.activations import head
from neuronlens.evaluation import text as text_module
from neuronlens.evaluation.text import TextScorer, document_losses, perplexity
from tests import reference
from tests.conftest import sentences
from tests.evaluation.edits import some_edits
from tests.models import LANGUAGE_MODELS


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_document_losses_do_not_depend_on_the_batches(checkpoints, family, monkeypatch):
    checkpoint = checkpoints(family)
    documents, edits = sentences(9, seed=5), some_edits(checkpoint.config)
    together, counts = document_losses(checkpoint, documents, edits)
    monkeypatch.setattr(head, "_LOGIT_BYTES", {"cpu": 1})
    alone, counts_alone = document_losses(checkpoint, documents, edits)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_array_equal(counts, counts_alone)
    singles = [document_losses(checkpoint, [text], edits)[0] for text in documents]
    np.testing.assert_allclose(together, np.concatenate(singles, axis=1), rtol=1e-5)


def test_losses_of_parts_put_together_are_in_the_order_of_the_documents(checkpoints, monkeypatch):
    checkpoint = checkpoints("gpt2")
    documents, edits = sentences(9, seed=5), some_edits(checkpoint.config)
    monkeypatch.setattr(text_module, "batch_budget", lambda *_: 24)
    scorer = TextScorer.of(checkpoint, documents, edits)
    assert len(scorer.batches) > 2
    parts = [scorer.score(range(i, i + 1)) for i in reversed(range(len(scorer.batches)))]
    losses, counts = scorer.together(parts)
    whole, same = document_losses(checkpoint, documents, edits)
    np.testing.assert_allclose(losses, whole, rtol=1e-6)
    np.testing.assert_array_equal(counts, same)


def test_losses_are_those_of_the_model_itself(checkpoints):
    checkpoint = checkpoints("llama")
    documents = sentences(4, seed=6)
    losses, counts = document_losses(checkpoint, documents, [])
    for text, loss, count in zip(documents, losses[0], counts, strict=True):
        ids = torch.tensor([checkpoint.tokenizer(text)["input_ids"]])
        assert count == ids.shape[1] - 1
        assert loss / count == pytest.approx(float(checkpoint.model(ids, labels=ids).loss), rel=1e-5)


def test_a_document_of_one_token_predicts_nothing(checkpoints):
    """The reference's perplexity is NaN as soon as one document has a single token."""
    checkpoint = checkpoints("gpt2")
    with_one, counts = document_losses(checkpoint, ["a", "the bank charge", "a ball"], [])
    without, same_counts = document_losses(checkpoint, ["the bank charge", "a ball"], [])
    np.testing.assert_array_equal(counts, same_counts)
    np.testing.assert_allclose(with_one, without, rtol=1e-6)
    assert np.isfinite(perplexity(with_one, counts)).all()


@pytest.mark.parametrize(("limit", "kept"), [(5, 5), (1000, 64)])
def test_a_long_document_is_cut_at_its_end(checkpoints, limit, kept):
    """To `max_tokens`, and to the positions that the model has."""
    checkpoint = checkpoints("gpt2")
    text = " ".join(sentences(12, seed=7))
    ids = checkpoint.tokenizer(text)["input_ids"]
    assert len(ids) > kept
    losses, counts = document_losses(checkpoint, [text, "the bank charge"], [], max_tokens=limit)
    assert counts.tolist() == [kept - 1, len(checkpoint.tokenizer("the bank charge")["input_ids"]) - 1]
    assert losses[0, 0] == pytest.approx(
        reference.nll(reference.logits_of(checkpoint.model, ids[:kept]), ids[:kept]), rel=1e-5
    )


def test_perplexity_weighs_tokens_not_documents():
    losses, predicted = np.array([[3.0, 40.0], [0.0, 0.0]]), np.array([1, 9])
    np.testing.assert_allclose(perplexity(losses, predicted), [math.exp(4.3), 1.0])
