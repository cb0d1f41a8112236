"""Answers are read behind the last real token, whatever the padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.readout import deciding_logits, read_answers
from neuronlens.encoding import Labels
from tests.conftest import sentences
from tests.models import FAMILIES, LANGUAGE_MODELS

LABELS = Labels(("a", "b"), (2, 0), ("a", "b"))


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_get_the_logits_they_get_alone(checkpoints, family):
    checkpoint = checkpoints(family)
    encoded = checkpoint.tokenizer(sentences(6))["input_ids"]
    sides = ("left", "right") if family in LANGUAGE_MODELS else ("right",)
    found = [
        deciding_logits(checkpoint.model, collate(encoded, np.arange(6), pad_id=0, device="cpu", side=side))
        for side in sides
    ]
    for row, ids in enumerate(encoded):
        alone = checkpoint.model(torch.tensor([ids])).logits
        expected = alone[0, -1] if family in LANGUAGE_MODELS else alone[0]
        for logits in found:
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_the_padding_token_does_not_matter(checkpoints, family):
    checkpoint = checkpoints(family)
    encoded = checkpoint.tokenizer(sentences(4))["input_ids"]
    one, two = (
        deciding_logits(checkpoint.model, collate(encoded, np.arange(4), pad_id=pad, device="cpu")) for pad in (0, 77)
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_constrained_scoring_chooses_among_the_labels():
    answers = read_answers(torch.tensor([[1.0, 9.0, 2.0], [3.0, 0.0, 2.0]]), LABELS, "constrained", classifier=False)
    assert answers.predicted.tolist() == [0, 1]


def test_free_scoring_may_name_no_label():
    answers = read_answers(torch.tensor([[1.0, 9.0, 2.0], [3.0, 0.0, 2.0]]), LABELS, "free", classifier=False)
    assert answers.predicted.tolist() == [-1, 1]


@pytest.mark.parametrize("scoring", ["constrained", "free"])
def test_a_classifier_chooses_among_all_its_classes(scoring):
    """Classes that are no concept of the data are answers as well: wrong ones."""
    answers = read_answers(torch.tensor([[1.0, 9.0, 2.0]]), LABELS, scoring, classifier=True)
    assert answers.predicted.tolist() == [-1]


@pytest.mark.parametrize("scoring", ["constrained", "free"])
def test_confidence_is_the_softmax_over_everything(scoring):
    logits = torch.tensor([[1.0, 9.0, 2.0]])
    answers = read_answers(logits, LABELS, scoring, classifier=False)
    exact = np.exp([2.0, 1.0]) / np.exp([1.0, 9.0, 2.0]).sum()
    np.testing.assert_allclose(answers.confidence[0], exact, rtol=1e-6)
