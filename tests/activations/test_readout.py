"""Answers are read behind the last real token, whatever the padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.readout import (
    continuations,
    deciding_logits,
    named_label,
    needed_tokens,
    only_tokens,
    read_answers,
)
from neuronlens.checkpoint import load_checkpoint
from neuronlens.encoding import Labels
from tests.conftest import hooks, sentences
from tests.models import FAMILIES, LANGUAGE_MODELS
from tests.reference import greedy

LABELS = Labels(("a", "b"), (2, 0), ("a", "b"))
NESTED = Labels(("a", "b", "c", "d"), (0, 0, 0, 0), (" art", " art history", "C++ ", "体育"))


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


def test_confidence_among_the_labels_leaves_the_vocabulary_out():
    logits = torch.tensor([[1.0, 9.0, 2.0, -3.0], [3.0, 0.0, 2.0, 5.0]])
    ids = needed_tokens(LABELS, "labels", classifier=False)
    assert ids == LABELS.ids
    answers = read_answers(logits[:, list(ids)], LABELS, "labels", classifier=False)
    whole = read_answers(logits, LABELS, "constrained", classifier=False)
    assert torch.equal(answers.predicted, whole.predicted)
    torch.testing.assert_close(answers.confidence, whole.confidence / whole.confidence.sum(dim=1, keepdim=True))


@pytest.mark.parametrize(("scoring", "classifier"), [("constrained", False), ("free", False), ("labels", True)])
def test_other_scorings_need_every_logit(scoring, classifier):
    assert needed_tokens(LABELS, scoring, classifier=classifier) is None


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_logits_of_some_tokens_are_those_of_all(checkpoints, family):
    checkpoint = checkpoints(family)
    encoded = checkpoint.tokenizer(sentences(4))["input_ids"]
    batch = collate(encoded, np.arange(4), pad_id=0, device="cpu")
    tokens = (3, 77, 5)
    with only_tokens(checkpoint.model, tokens):
        some = deciding_logits(checkpoint.model, batch)
    torch.testing.assert_close(some, deciding_logits(checkpoint.model, batch)[:, list(tokens)], rtol=1e-5, atol=1e-6)
    assert hooks(checkpoint.model) == 0


@pytest.mark.parametrize("scoring", ["constrained", "free", "labels"])
def test_a_classifier_chooses_among_all_its_classes(scoring):
    """Classes that are no concept of the data are answers as well: wrong ones."""
    answers = read_answers(torch.tensor([[1.0, 9.0, 2.0]]), LABELS, scoring, classifier=True)
    assert answers.predicted.tolist() == [-1]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        *((text, 0) for text in ("art", " art", "\n art ", "art.", "art\nText: the", "art historian", "art's")),
        *((text, 1) for text in (" art history", "art history. It", "art history\tx")),
        *((text, 2) for text in ("C++", " C++.", "C++ and")),
        *((text, 3) for text in ("体育", " 体育。")),
        *(
            (text, -1)
            for text in ("artful", "arts", "art_", "art2", "Art", "ART", "ar", "", " ", "the art", "(art)", "\x00")
        ),
        *((text, -1) for text in ("art\ufffd", "C+", "C++x", "c++", "体", "体育新闻", "art\u00e9")),
    ],
)
def test_a_continuation_names_a_label_or_none(said, named):
    assert named_label(said, NESTED) == named


def test_generated_answers_are_the_named_labels_and_keep_the_first_tokens_confidence():
    logits = torch.tensor([[1.0, 9.0, 2.0], [3.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    answers = read_answers(logits, LABELS, "generate", classifier=False, texts=[" b", "ab", "a"])
    assert answers.predicted.tolist() == [1, -1, 0]
    assert torch.equal(answers.confidence, read_answers(logits, LABELS, "free", classifier=False).confidence)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_continuations_are_greedy_whatever_the_padding_and_the_batch(checkpoints, family):
    checkpoint = checkpoints(family)
    encoded = checkpoint.tokenizer(sentences(6))["input_ids"]
    expected = [checkpoint.tokenizer.decode(greedy(checkpoint.model, ids, 5, {3})).encode() for ids in encoded]
    for rows in (np.arange(6), np.array([4, 1]), np.array([2])):
        found = continuations(checkpoint.model, checkpoint.tokenizer, encoded, rows, 5)
        assert [text.encode() for text in found] == [expected[row] for row in rows]


@pytest.fixture
def stubborn(checkpoints):
    """A checkpoint of its own, whose generation config may be changed."""
    return load_checkpoint(checkpoints("gpt2").path)


def test_continuations_end_before_any_end_of_text(stubborn):
    """generation_config.json may name several; the tokenizer's own counts too."""
    model, tokenizer = stubborn.model, stubborn.tokenizer
    encoded = tokenizer(sentences(6))["input_ids"]
    whole = [greedy(model, ids, 6, set()) for ids in encoded]
    stops = {whole[0][0], whole[1][2], whole[2][5]}
    model.generation_config.eos_token_id = sorted(stops)
    cut = [greedy(model, ids, 6, stops | {3}) for ids in encoded]
    assert [] in cut
    assert any(0 < len(short) < len(long) for short, long in zip(cut, whole, strict=True))
    found = continuations(model, tokenizer, encoded, np.arange(6), 6)
    assert found == [tokenizer.decode(ids) for ids in cut]


def test_continuations_are_greedy_whatever_generation_config_asks_for(stubborn):
    model, tokenizer = stubborn.model, stubborn.tokenizer
    encoded = tokenizer(sentences(4))["input_ids"]
    plain = continuations(model, tokenizer, encoded, np.arange(4), 6)
    asked = model.generation_config
    asked.update(
        do_sample=True, temperature=9.0, num_beams=3, repetition_penalty=9.0, min_new_tokens=6, num_return_sequences=2
    )
    asked.update(suppress_tokens=list(range(200)), no_repeat_ngram_size=1, max_new_tokens=1)
    assert continuations(model, tokenizer, encoded, np.arange(4), 6) == plain
    assert model.generation_config is asked


@pytest.mark.parametrize("scoring", ["constrained", "free"])
def test_confidence_is_the_softmax_over_everything(scoring):
    logits = torch.tensor([[1.0, 9.0, 2.0]])
    answers = read_answers(logits, LABELS, scoring, classifier=False)
    exact = np.exp([2.0, 1.0]) / np.exp([1.0, 9.0, 2.0]).sum()
    np.testing.assert_allclose(answers.confidence[0], exact, rtol=1e-6)
