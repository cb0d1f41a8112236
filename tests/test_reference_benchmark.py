"""The benchmark's re-implementation of the reference program: its numbers are NeuronLens's own, and it does the work that it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from benchmarks import reference
from benchmarks.words import word_tokenizer
from neuronlens.activations.extract import collect_activations
from neuronlens.checkpoint import load_checkpoint
from neuronlens.evaluation.scoring import score_rows
from neuronlens.evaluation.text import document_losses, perplexity
from neuronlens.interventions.kinds import Intervention
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from tests.conftest import hooks
from tests.models import LAYERS, VOCABULARY, random_model

LONGEST = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    random_model("gpt2").save_pretrained(folder)
    word_tokenizer(VOCABULARY, LONGEST).save_pretrained(folder)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def workload():
    """Rows and documents of 3 to 27 tokens."""
    drawn = reference.random_workload(concepts=3, fit=6, test=7, documents=5, tokens=40, vocabulary=VOCABULARY)
    lengths = np.random.default_rng(1).integers(3, 28, len(drawn.rows))
    rows = [ids[:length] for ids, length in zip(drawn.rows, lengths, strict=True)]
    return replace(drawn, rows=rows, documents=[ids[: 4 + 5 * at] for at, ids in enumerate(drawn.documents)])


def by_neuronlens(checkpoint, workload, settings):
    """The same results from the library's own functions, all edits in one call."""
    params, site = workload.params(), f"resid_post.{settings.layer}"
    dataset, how = workload.dataset(), {"text": params, "scoring": settings.scoring}
    statistics = fit_statistics(collect_activations(checkpoint, dataset, [site], **how), site, rows="all")
    found = [
        fit_ranges(statistics, name, saliency="mean_abs", top=settings.top, kind=kind, tau=settings.tau)
        for name in workload.concepts
        for kind in ("gaussian", "full")
    ]
    edits = [Intervention.of(ranges) for ranges in found]
    scores = score_rows(checkpoint, dataset, edits, **how)
    cost = perplexity(*document_losses(checkpoint, workload.texts(), edits, max_tokens=params.max_tokens))

    def outcome(state, concept):
        target = scores.truth == concept
        rates = [
            part[state][group].mean() for part in (scores.correct, scores.confidence) for group in (target, ~target)
        ]
        return reference.Outcome(*map(float, rates), float(cost[state]))

    for concept, name in enumerate(workload.concepts):
        ranges = found[2 * concept]
        bounds = np.stack([ranges.lower[:, 0], ranges.upper[:, 0]])
        states = [outcome(state, concept) for state in (0, 2 * concept + 1, 2 * concept + 2)]
        yield reference.ConceptResult(name, ranges.neurons, bounds, *states)


@pytest.mark.parametrize("scoring", ["constrained", "free"])
@pytest.mark.parametrize("pad_to", [None, 40])
@pytest.mark.parametrize("layer", [1, LAYERS - 1])
def test_its_results_are_those_of_neuronlens(checkpoint, workload, layer, pad_to, scoring):
    settings = reference.Settings(layer, pad_to=pad_to, scoring=scoring, batch=4)
    results = reference.audit(checkpoint.model, workload, settings)
    expected = list(by_neuronlens(checkpoint, workload, settings))
    assert [result.concept for result in results] == list(workload.concepts)
    for result, own in zip(results, expected, strict=True):
        assert result.neurons.tolist() == own.neurons.tolist()
        np.testing.assert_allclose(result.bounds, own.bounds, rtol=1e-5, atol=1e-6)
        for name in ("base", "range", "full"):
            state, other = getattr(result, name), getattr(own, name)
            for group in ("target", "complement"):
                assert getattr(state, f"{group}_accuracy") == getattr(other, f"{group}_accuracy")
                confidence = getattr(other, f"{group}_confidence")
                assert getattr(state, f"{group}_confidence") == pytest.approx(confidence, rel=1e-5, abs=0)
            assert state.perplexity == pytest.approx(other.perplexity, rel=2e-6, abs=0)
        # agreement shows nothing where the edits do nothing
        costs = [state.perplexity for state in (result.base, result.range, result.full)]
        assert min(np.abs(np.subtract.outer(costs, costs))[~np.eye(3, dtype=bool)]) > 1e-3 * min(costs)
        assert result.range.target_confidence != pytest.approx(result.base.target_confidence, rel=1e-3)


def test_it_runs_the_whole_model_as_often_as_it_says(checkpoint, workload, monkeypatch):
    shapes, forward = [], GPT2LMHeadModel.forward

    def counted(self, input_ids, **options):
        found = forward(self, input_ids=input_ids, **options)
        shapes.append(("labels" in options, tuple(found.logits.shape)))
        return found

    monkeypatch.setattr(GPT2LMHeadModel, "forward", counted)
    reference.audit(checkpoint.model, workload, reference.Settings(1, pad_to=40, batch=4))
    rows = sum(shape[0] for of_document, shape in shapes if not of_document)
    assert (rows, sum(of_document for of_document, _ in shapes)) == workload.forwards() == (3 * 3 * 21 + 18, 3 * 3 * 5)
    # logits of every position, padding and all
    assert {shape[1:] for of_document, shape in shapes if not of_document} == {(40, VOCABULARY)}
    assert hooks(checkpoint.model) == 0


def test_a_workload_has_the_tokens_that_were_asked_for(checkpoint):
    fixed = reference.random_workload(concepts=11, fit=2, test=1, documents=3, tokens=9, vocabulary=VOCABULARY)
    assert {len(ids) for ids in (*fixed.rows, *fixed.documents)} == {9}
    assert list(fixed.concepts) == sorted(fixed.concepts)
    assert len(set(fixed.labels)) == 11
    assert len(fixed.members("fit")) == 22
    assert [len(fixed.members("test", concept)) for concept in range(11)] == [1] * 11
    words = checkpoint.tokenizer(fixed.dataset().text)["input_ids"]
    assert words == list(fixed.rows)
    drawn = reference.random_workload(concepts=2, fit=500, test=1, documents=1, seed=3)
    lengths = [len(ids) for ids in drawn.rows]
    assert 60 < np.mean(lengths) < 72
    assert 8 <= min(lengths) < max(lengths) <= 400


def test_bounds_are_compared_in_single_precision():
    """Rounded to bfloat16, 1.003 would be 1 and hold it."""
    model = random_model("gpt2", dtype=torch.bfloat16).to(torch.bfloat16)
    lower, upper = torch.full((16,), torch.inf), torch.full((16,), -torch.inf)
    lower[:2], upper[:2] = torch.tensor([1.003, 0.997]), torch.tensor([2.0, 2.0])
    hidden = torch.ones(1, 3, 16, dtype=torch.bfloat16)
    block = model.transformer.h[0]
    block.forward = lambda *_, **__: hidden
    seen = []
    with reference._masked(model, 0, (lower, upper)):
        block.register_forward_hook(lambda _, __, output: seen.append(output))
        block(hidden)
    assert seen[0][0, :, 0].tolist() == [1.0] * 3
    assert seen[0][0, :, 1].tolist() == [0.0] * 3
    assert seen[0].dtype == torch.bfloat16
