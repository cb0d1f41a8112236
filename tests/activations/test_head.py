"""The vectors that decide rows, and what the head makes of them, are those of the whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations import head
from neuronlens.activations.batching import collate
from neuronlens.activations.head import deciding_hidden, head_logits, vectors_together
from neuronlens.activations.hidden import hidden_of
from neuronlens.activations.readout import deciding_logits, only_tokens
from tests.conftest import hooks, sentences
from tests.models import FAMILIES, HIDDEN, LANGUAGE_MODELS, VOCABULARY


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_makes_of_deciding_vectors_what_the_model_does(checkpoints, family, side):
    """Of rows of several batches together, in their order."""
    checkpoint = checkpoints(family)
    model, encoded = checkpoint.model, checkpoint.tokenizer(sentences(7))["input_ids"]
    side = side if family in LANGUAGE_MODELS else "right"  # an encoder's first token stands first
    batches = [
        collate(encoded, np.array(rows), pad_id=0, device="cpu", side=side) for rows in ([0, 1, 2], [3], [4, 5, 6])
    ]
    found = [deciding_hidden(model, batch) for batch in batches]
    vectors = torch.cat([hidden_of(output) for output in found])
    assert vectors.shape == (7, 1, HIDDEN)
    expected = torch.cat([deciding_logits(model, batch) for batch in batches])
    torch.testing.assert_close(head_logits(model, vectors, found[0]), expected, rtol=0, atol=2e-6)
    if family in LANGUAGE_MODELS:
        with only_tokens(model, (5, 3)):
            some = head_logits(model, vectors, found[0])
        torch.testing.assert_close(some, expected[:, [5, 3]], rtol=0, atol=2e-6)
    assert hooks(model) == 0


def test_as_many_vectors_go_through_the_head_as_their_widest_place_allows(checkpoints, monkeypatch):
    model = checkpoints("gpt2").model
    monkeypatch.setattr(head, "_TOGETHER_BYTES", 4 * VOCABULARY * 10)
    assert vectors_together(model) == 10
    assert vectors_together(model, (1, 2)) == 10 * VOCABULARY // HIDDEN
    assert vectors_together(model, (1, 2), 2 * VOCABULARY) == 5
    assert vectors_together(checkpoints("bert").model) == 10 * VOCABULARY // HIDDEN
    monkeypatch.setattr(head, "_TOGETHER_BYTES", 1)
    assert vectors_together(model) == 1
