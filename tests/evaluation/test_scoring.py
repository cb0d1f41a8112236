"""Scores do not depend on how rows are batched, and perplexity counts predicted tokens and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuronlens.config import DatasetParams
from neuronlens.evaluation import scoring
from neuronlens.evaluation.scoring import document_losses, perplexity, score_rows
from neuronlens.interventions.edit import Intervention
from neuronlens.sites import Site, site_width
from tests.conftest import sentences
from tests.models import FAMILIES, LANGUAGE_MODELS


def some_edits(config, layers=(0, 2), operator="zero"):
    """Zero the positive half of every third neuron, and all of it."""
    edits = []
    for layer in layers:
        for component in ("resid_post", "mlp_post"):
            neurons = torch.arange(0, site_width(config, Site(layer, component)), 3)
            upper = torch.full((len(neurons), 1), torch.inf)
            edits += [
                Intervention(Site(layer, component), neurons, torch.zeros_like(upper), upper, operator),
                Intervention(Site(layer, component), neurons, -upper, upper, operator),
            ]
    return edits


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_the_batches(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    edits = some_edits(checkpoint.config)
    one, some, all_ = (score_rows(checkpoint, dataset, edits, batch_tokens=budget) for budget in (1, 40, 1 << 20))
    for other in (some, all_):
        np.testing.assert_allclose(other.confidence, one.confidence, rtol=2e-5)
        np.testing.assert_array_equal(other.predicted, one.predicted)
        np.testing.assert_array_equal(other.changed, one.changed)
        np.testing.assert_array_equal(other.looked_at, one.looked_at)
    moved = np.abs(one.confidence[1:] / one.confidence[0] - 1).max(axis=1)
    assert moved.min() > 1e-2, "every edit must do something"


@pytest.mark.parametrize("family", FAMILIES)
def test_fidelity_is_measured_to_be_exact(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    scores = score_rows(checkpoint, dataset, some_edits(checkpoint.config))
    assert (scores.no_op_difference, scores.suffix_difference) == (0.0, 0.0)


def test_fidelity_notices_a_hook_that_is_not_idle(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("gpt2")
    apply = Intervention.apply

    def careless(self, hidden, tokens):
        edited, inside = apply(self, hidden, tokens)
        return edited + 1e-3 * torch.arange(hidden.shape[-1]), inside

    monkeypatch.setattr(Intervention, "apply", careless)
    assert score_rows(checkpoint, dataset, some_edits(checkpoint.config)).no_op_difference > 0


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_document_losses_do_not_depend_on_the_batches(checkpoints, family, monkeypatch):
    checkpoint = checkpoints(family)
    documents, edits = sentences(9, seed=5), some_edits(checkpoint.config)
    together, counts = document_losses(checkpoint, documents, edits)
    monkeypatch.setattr(scoring, "_LOGIT_BYTES", 1)
    alone, counts_alone = document_losses(checkpoint, documents, edits)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_array_equal(counts, counts_alone)
    singles = [document_losses(checkpoint, [text], edits)[0] for text in documents]
    np.testing.assert_allclose(together, np.concatenate(singles, axis=1), rtol=1e-5)


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


def test_perplexity_weighs_tokens_not_documents():
    losses, predicted = np.array([[3.0, 40.0], [0.0, 0.0]]), np.array([1, 9])
    np.testing.assert_allclose(perplexity(losses, predicted), [math.exp(4.3), 1.0])


def test_only_the_rows_of_the_split_are_scored(checkpoints, dataset):
    scores = score_rows(checkpoints("bert"), dataset, [], split="validation")
    assert [dataset.split[row] for row in scores.rows] == ["validation"] * 4
    assert [scores.concepts[at] for at in scores.truth] == [dataset.concept[row] for row in scores.rows]


def test_free_scoring_is_stricter_than_constrained(checkpoints, dataset):
    checkpoint = checkpoints("qwen2")
    constrained = score_rows(checkpoint, dataset, [])
    free = score_rows(checkpoint, dataset, [], scoring="free")
    assert (constrained.predicted >= 0).all()
    assert (free.predicted == -1).any(), "among 400 tokens a random model mostly names none of four"
    np.testing.assert_array_equal(free.predicted[free.predicted >= 0], constrained.predicted[free.predicted >= 0])
    np.testing.assert_array_equal(free.confidence, constrained.confidence)


def test_positions_last_looks_at_one_token_a_row(checkpoints, dataset):
    checkpoint = checkpoints("gemma2")
    neurons = torch.arange(5)
    everything = torch.full((5, 1), torch.inf)
    edits = [
        Intervention(Site(1, "resid_post"), neurons, -everything, everything, positions=positions)
        for positions in ("last", "pooled", "all", "prompt", "generated")
    ]
    scores = score_rows(checkpoint, dataset, edits, text=DatasetParams(prompt="{text} Topic:"))
    last, pooled, all_, prompt, generated = scores.looked_at[1:]
    tokens = [len(checkpoint.tokenizer(f"{dataset.text[row]} Topic:")["input_ids"]) for row in scores.rows]
    assert (last == 5).all()
    assert (pooled == 5).all()
    assert all_.tolist() == prompt.tolist() == [5 * count for count in tokens]
    assert (generated == 0).all()
    np.testing.assert_array_equal(scores.changed[1:], scores.looked_at[1:])
