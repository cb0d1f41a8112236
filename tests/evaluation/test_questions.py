"""Multiple choice: the letters' logits decide, behind whole prompts, under each edit as in a full pass."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from neuronlens.activations.extract import collect_activations
from neuronlens.config import Config
from neuronlens.encoding import encode_questions, question_prompt
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.questions import COLUMNS, asked_questions, question_columns, question_facts, score_questions
from neuronlens.evaluation.sweep import evaluate_methods
from neuronlens.evaluation.uncertainty import wilson
from neuronlens.interventions.kinds import Intervention
from neuronlens.questions import Question
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import Site
from tests import reference
from tests.conftest import sentences
from tests.evaluation.by_hand import masking
from tests.models import LANGUAGE_MODELS, WORDS

LETTERS = "ABCD"


def some_questions(count=12):
    """Of two to four choices and different lengths."""
    drawn = random.Random(0)
    found = []
    for text in sentences(count, seed=3):
        choices = tuple(drawn.sample(WORDS, drawn.randint(2, 4)))
        found.append(Question(text, choices, drawn.randrange(len(choices))))
    return found


def edits_at(layer):
    """A whole neuron out of three, and the positive half of every second."""
    every, half = torch.arange(0, 16, 3), torch.arange(0, 16, 2)
    infinite, zeros = torch.full((6, 1), torch.inf), torch.zeros(8, 1)
    return [
        masking(Site(layer, "resid_post"), every, -infinite, infinite),
        masking(Site(layer, "resid_post"), half, zeros, torch.full_like(zeros, torch.inf)),
    ]


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_answers_equal_a_plain_pass_over_one_question_at_a_time(lettered, family):
    checkpoint, questions = lettered(family), some_questions()
    correct = score_questions(checkpoint, encode_questions(checkpoint, questions), edits_at(1))

    def zero(neurons, positive):
        def change(hidden):
            new = hidden.clone()
            picked = new[..., neurons]
            new[..., neurons] = torch.where(picked >= 0, 0.0, picked) if positive else torch.zeros_like(picked)
            return new

        return change

    changes = [lambda _: None, zero(slice(0, 16, 3), False), zero(slice(0, 16, 2), True)]
    for found, change in zip(correct, changes, strict=True):
        for hit, question in zip(found, questions, strict=True):
            ids = checkpoint.tokenizer(question_prompt(question))["input_ids"]
            with reference.hooked(checkpoint.model, family, 1, "resid_post", change):
                logits = reference.logits_of(checkpoint.model, ids)[-1]
            offered = [checkpoint.tokenizer(f" {letter}")["input_ids"] for letter in LETTERS[: len(question.choices)]]
            scores = [float(logits[token]) for (token,) in offered]
            assert hit == (scores.index(max(scores)) == question.answer)
    assert len({*map(tuple, correct.tolist())}) > 1, "the edits matter"
    assert 0 < correct.sum() < correct.size


@pytest.mark.parametrize("budget", [1, 60, 1 << 20])
def test_answers_do_not_depend_on_the_batches(lettered, budget):
    checkpoint = lettered("llama")
    asked = encode_questions(checkpoint, some_questions())
    np.testing.assert_array_equal(
        score_questions(checkpoint, asked, edits_at(2), batch_tokens=budget),
        score_questions(checkpoint, asked, edits_at(2)),
    )


def test_a_letter_that_is_not_offered_is_no_answer(lettered):
    """With one question in two to four choices, the answer is always one of its own."""
    checkpoint = lettered("gpt2")
    two = [Question(question.text, ("yes", "no"), 0) for question in some_questions()]
    flipped = [Question(question.text, question.choices, 1) for question in two]
    four = Question("the bank", ("yes", "no", "old", "new"), 3)  # its letters are scored in the same batch
    first, second = (
        score_questions(checkpoint, encode_questions(checkpoint, [*some, four]), []) for some in (two, flipped)
    )
    assert (first[0, :-1] ^ second[0, :-1]).all()


@pytest.fixture
def written(tmp_path):
    """A file of questions, one of them far too long."""
    file = tmp_path / "questions.jsonl"
    questions = [*some_questions(), Question("the bank " * 80, ("yes", "no"), 0)]
    lines = [{"question": q.text, "choices": q.choices, "answer": LETTERS[q.answer]} for q in questions]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_the_columns_are_rates_with_their_wilson_intervals(lettered, written):
    checkpoint = lettered("gpt2")
    config = Config.model_validate({"evaluate": {"questions": str(written)}})
    asked = asked_questions(checkpoint, config)
    correct = score_questions(checkpoint, encode_questions(checkpoint, some_questions()), edits_at(0))
    found = question_columns(score_questions(checkpoint, asked, edits_at(0)), len(edits_at(0)))
    for hits, row in zip(correct[1:], found, strict=True):
        low, high = wilson(int(hits.sum()), 12)
        assert row == {
            "base_questions_accuracy": correct[0].mean(),
            "questions_accuracy": hits.mean(),
            "questions_accuracy_low": low,
            "questions_accuracy_high": high,
        }
    assert question_facts(asked) == {"used": 12, "left_out": 1}


def test_results_have_the_columns_where_questions_are_asked(lettered, dataset, written):
    checkpoint = lettered("gpt_neox")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    methods = [Method(fit_ranges(statistics, "sports", top=0.3, kind="full"))]
    given = {"bootstrap": 100, "questions": str(written)}
    asked, unasked = (
        evaluate_methods(checkpoint, dataset, methods, Config.model_validate({"evaluate": part}))[0].to_pylist()[0]
        for part in (given, {"bootstrap": 100})
    )
    edits = [Intervention.of(methods[0].ranges)]
    questions = asked_questions(checkpoint, Config.model_validate({"evaluate": given}))
    expected = question_columns(score_questions(checkpoint, questions, edits), 1)[0]
    assert {name: asked[name] for name in COLUMNS} == expected
    assert {name: unasked[name] for name in COLUMNS} == dict.fromkeys(COLUMNS)
    assert {name: value for name, value in asked.items() if name not in COLUMNS} == {
        name: value for name, value in unasked.items() if name not in COLUMNS
    }


def test_a_classifier_is_not_asked(checkpoints, written):
    config = Config.model_validate({"evaluate": {"questions": str(written)}})
    assert asked_questions(checkpoints("bert"), config) is None
    assert question_columns(None, 2) == [dict.fromkeys(COLUMNS)] * 2
    assert question_facts(None) is None
