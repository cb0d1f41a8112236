"""Scores do not depend on how rows are batched, and perplexity counts predicted tokens and nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.extract import collect_activations
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import DatasetParams
from neuronlens.encoding import longest_input
from neuronlens.errors import DatasetError
from neuronlens.evaluation import scoring
from neuronlens.evaluation.scoring import RowScorer, score_rows
from neuronlens.interventions.kinds import Intervention
from neuronlens.sites import Site
from tests import reference
from tests.evaluation.by_hand import masking
from tests.evaluation.edits import half, some_edits
from tests.models import FAMILIES, WORDS, random_model, save_checkpoint
from tests.models import tokenizer as checkpoint_tokenizer


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
    assert scores.no_op_difference == 0
    assert scores.suffix_difference <= min(2e-6, scores.suffix_tolerance)


def test_fidelity_notices_a_hook_that_is_not_idle(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("gpt2")
    apply = Intervention.apply

    def careless(self, hidden, tokens):
        edited, inside = apply(self, hidden, tokens)
        return edited + 1e-3 * torch.arange(hidden.shape[-1]), inside

    monkeypatch.setattr(Intervention, "apply", careless)
    assert score_rows(checkpoint, dataset, some_edits(checkpoint.config)).no_op_difference > 0


def test_only_the_rows_of_the_split_are_scored(checkpoints, dataset):
    scores = score_rows(checkpoints("bert"), dataset, [], split="validation")
    assert [dataset.split[row] for row in scores.rows] == ["validation"] * 4
    assert [scores.concepts[at] for at in scores.truth] == [dataset.concept[row] for row in scores.rows]


def test_a_split_without_rows_cannot_be_scored(checkpoints, dataset):
    with pytest.raises(DatasetError) as caught:
        RowScorer.of(checkpoints("bert"), dataset, [], split="nothing")
    assert str(caught.value) == "the split 'nothing' has no rows. Every split needs some of each concept."


def test_hidden_states_are_taken_over_where_they_are_of_the_same_batches(checkpoints, dataset):
    checkpoint = checkpoints("bert")
    plain = RowScorer.of(checkpoint, dataset, [], split="test", batch_tokens=40)
    assert len(plain.batches) > 1
    left = [SimpleNamespace(rows=plain.rows[batch]) for batch in plain.batches]
    assert RowScorer.of(checkpoint, dataset, [], split="test", batch_tokens=40, kept=left).kept == left
    assert RowScorer.of(checkpoint, dataset, [], split="test", batch_tokens=40, kept=left[::-1]).kept == ()
    assert RowScorer.of(checkpoint, dataset, [], split="test", batch_tokens=4000, kept=left).kept == ()


@torch.inference_mode()
def test_a_prompt_that_rows_share_is_part_of_what_is_checked(checkpoints, monkeypatch):
    checkpoint = checkpoints("llama")
    item = half(checkpoint.model.config, Site(0, "resid_post"))
    encoded = [[*range(4, 24), last] for last in (30, 31)]
    batch = collate(encoded, np.arange(2), pad_id=0, device="cpu")
    seen = []
    passes = scoring.deciding_passes
    monkeypatch.setattr(
        scoring, "deciding_passes", lambda *given, **how: seen.append(how.get("shared")) or passes(*given, **how)
    )
    for prompt in (encoded[0][:20], ()):
        no_op, suffix, tolerance = scoring.check_fidelity(checkpoint.model, [item], batch, prompt)
        assert no_op == 0
        assert suffix <= tolerance
    assert seen[0].length == 20
    assert seen[1] is None


def test_free_scoring_is_stricter_than_constrained(checkpoints, dataset):
    checkpoint = checkpoints("qwen2")
    constrained = score_rows(checkpoint, dataset, [])
    free = score_rows(checkpoint, dataset, [], scoring="free")
    assert (constrained.predicted >= 0).all()
    assert (free.predicted == -1).any(), "among 400 tokens a random model mostly names none of four"
    np.testing.assert_array_equal(free.predicted[free.predicted >= 0], constrained.predicted[free.predicted >= 0])
    np.testing.assert_array_equal(free.confidence, constrained.confidence)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bert"])
def test_scoring_among_the_labels(checkpoints, dataset, family):
    """The answers are the constrained ones; confidence is shared out among the labels, with every edit."""
    checkpoint = checkpoints(family)
    edits = some_edits(checkpoint.config)
    constrained = score_rows(checkpoint, dataset, edits)
    among = score_rows(checkpoint, dataset, edits, scoring="labels")
    np.testing.assert_array_equal(among.predicted, constrained.predicted)
    np.testing.assert_array_equal(among.changed, constrained.changed)
    if family == "bert":
        np.testing.assert_array_equal(among.confidence, constrained.confidence)
    else:
        assert (among.confidence > constrained.confidence).all()
    found = collect_activations(checkpoint, dataset, scoring="labels")
    place = {row: i for i, row in enumerate(found.row)}
    own = [place[dataset.row[row]] for row in among.rows]
    np.testing.assert_allclose(among.confidence[0], found.confidence[own], rtol=1e-5)


@pytest.mark.parametrize("family", ["distilbert", "gpt2"])
def test_a_batch_that_does_not_fit_into_memory_is_cut(checkpoints, dataset, family, monkeypatch):
    """In the middle of its edits: no row is lost, and none counts twice."""
    checkpoint = checkpoints(family)
    edits = some_edits(checkpoint.config)
    whole = score_rows(checkpoint, dataset, edits)
    passes, failed = scoring.deciding_passes, []

    def short_of_memory(model, interventions, batch, *unedited, **how):
        for done, result in enumerate(passes(model, interventions, batch, *unedited, **how)):
            if done == 2 and len(batch) > 3 and len(interventions) > 1:
                failed.append(len(batch))
                raise torch.OutOfMemoryError
            yield result

    monkeypatch.setattr(scoring, "deciding_passes", short_of_memory)
    cut = score_rows(checkpoint, dataset, edits)
    assert failed
    np.testing.assert_array_equal(cut.predicted, whole.predicted)
    np.testing.assert_array_equal(cut.changed, whole.changed)
    np.testing.assert_array_equal(cut.looked_at, whole.looked_at)
    np.testing.assert_allclose(cut.confidence, whole.confidence, rtol=1e-4)


def test_rows_that_cannot_be_generated_together_are_generated_apart(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("gpt2")
    edits = some_edits(checkpoint.config)[:2]
    whole = score_rows(checkpoint, dataset, edits, scoring="generate")
    generate, failed = scoring.continuations, []

    def short_of_memory(model, tokenizer, encoded, rows, steps):
        if len(rows) > 3:
            failed.append(len(rows))
            raise torch.OutOfMemoryError
        return generate(model, tokenizer, encoded, rows, steps)

    monkeypatch.setattr(scoring, "continuations", short_of_memory)
    cut = score_rows(checkpoint, dataset, edits, scoring="generate")
    assert failed
    np.testing.assert_array_equal(cut.predicted, whole.predicted)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_prompt_that_rows_share_is_run_apart(checkpoints, dataset, family):
    """The template's beginning is the same in all rows; scores are those of rows run whole."""
    checkpoint = checkpoints(family)
    edits = some_edits(checkpoint.config)
    text = DatasetParams(prompt="the court : law the bank : finance the goal : sports the cell : health {text} Topic:")
    together = score_rows(checkpoint, dataset, edits, text=text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring.SharedPrompt, "of_rows", lambda *_: None)
        alone = score_rows(checkpoint, dataset, edits, text=text)
    np.testing.assert_array_equal(together.predicted, alone.predicted)
    np.testing.assert_array_equal(together.changed, alone.changed)
    np.testing.assert_allclose(together.confidence, alone.confidence, rtol=1e-4)
    assert (together.confidence != alone.confidence).any(), "they take different ways"
    assert together.suffix_difference <= max(together.suffix_tolerance, 5e-6)


STEPS = 3  # the longest label below has two tokens, and one more shows where it ends


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    """`wordy(family)` is a random checkpoint that only ever says words, so that its answers can be labels."""

    def make(family):
        folder = save_checkpoint(tmp_path_factory.mktemp("wordy") / family, family)
        tokens = checkpoint_tokenizer(family).get_vocab()
        unsaid = [token for name, token in tokens.items() if name not in ("[SEP]", *(f"Ġ{word}" for word in WORDS))]
        model = random_model(family)
        with torch.no_grad():
            model.get_output_embeddings().weight[unsaid] = 0  # a logit of 0 loses among some fifty random ones
            model.get_output_embeddings().weight[len(tokens) :] = 0
        model.save_pretrained(folder)
        return load_checkpoint(folder)

    return cache(make)


def said_labels(checkpoint, encoded):
    """Labels that some rows are answered with: of one and two tokens, two of them with the same first token."""
    said = [reference.greedy(checkpoint.model, ids, STEPS, {3}) for ids in encoded]
    decode = checkpoint.tokenizer.decode
    twice, *others = (ids for ids in said if len(ids) == STEPS)
    once = next(ids for ids in others if ids[0] != twice[0])
    return {
        "finance": decode(twice[:2]),
        "health": decode(twice[:1]) + " atom",
        "science": decode(once[:1]),
        "sports": " law party",
    }


def plainly_named(text, labels):
    """The longest label at the start of a text that is not the start of a longer word."""
    found = [
        name
        for name in sorted(labels, key=lambda name: -len(labels[name].strip()))
        if (rest := text.strip().removeprefix(labels[name].strip())) != text.strip() and not rest[:1].isalnum()
    ]
    return found[0] if found else None


@pytest.mark.parametrize("positions", ["all", "last", "prompt", "generated"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_generated_answers_equal_a_plain_greedy_loop(wordy, dataset, family, positions):
    """One row at a time, without cache and padding, the edit made by a hook that knows its columns by number."""
    checkpoint = wordy(family)
    model, site = checkpoint.model, Site(1, "resid_post")
    prompt = "{text} Topic:"
    test = [i for i, split in enumerate(dataset.split) if split == "test"]
    encoded = [checkpoint.tokenizer(prompt.replace("{text}", dataset.text[i]))["input_ids"] for i in test]
    labels = said_labels(checkpoint, encoded)
    how = DatasetParams(prompt=prompt, labels=labels)
    neurons, upper, written = torch.arange(0, 16, 2), torch.full((8, 1), torch.inf), torch.linspace(-6, 6, 8)
    edits = [masking(site, neurons, -upper, upper, "complement_mean", written=written, positions=positions)]
    scores = score_rows(checkpoint, dataset, edits, scoring="generate", text=how)
    apart = how.model_copy(update={"labels": labels | {"health": " old"}})
    free = score_rows(checkpoint, dataset, edits, scoring="free", text=apart)

    def answers(change_of):
        said = []
        for ids in encoded:
            with reference.hooked(model, family, 1, "resid_post", change_of(len(ids))):
                tokens = reference.greedy(model, ids, STEPS, {3})
            said.append(plainly_named(checkpoint.tokenizer.decode(tokens), labels))
        return [-1 if name is None else scores.concepts.index(name) for name in said]

    def change_of(width):
        columns = {"all": slice(None), "last": width - 1, "prompt": slice(width), "generated": slice(width, None)}[
            positions
        ]

        def change(hidden):
            new = hidden.clone()
            new[:, columns, ::2] = written
            return new

        return change

    expected = [answers(lambda _: lambda _: None), answers(change_of)]
    assert scores.predicted.tolist() == expected
    assert len({*expected[0]} - {-1}) > 1, "several labels are named"
    assert -1 in expected[0], "and sometimes none"
    assert expected[0] != expected[1], "the edit matters"
    # what does not depend on the answer's text is what the other scorings give
    same = [scores.concepts[at] != "health" for at in scores.truth]
    np.testing.assert_array_equal(scores.confidence[:, same], free.confidence[:, same])
    np.testing.assert_array_equal(scores.changed, free.changed)
    np.testing.assert_array_equal(scores.looked_at, free.looked_at)
    assert scores.no_op_difference == 0
    assert scores.suffix_difference <= min(2e-6, scores.suffix_tolerance)
    for budget in (1, 1 << 20):
        again = score_rows(checkpoint, dataset, edits, scoring="generate", text=how, batch_tokens=budget)
        np.testing.assert_array_equal(again.predicted, scores.predicted)


def test_the_extraction_generates_the_same_answers_and_reads_the_same_activations(wordy, dataset):
    checkpoint = wordy("llama")
    encoded = checkpoint.tokenizer([f"{text} Topic:" for text in dataset.text])["input_ids"]
    how = DatasetParams(prompt="{text} Topic:", labels=said_labels(checkpoint, encoded))
    sites = ["resid_post.all", "mlp_post.1"]
    found = collect_activations(checkpoint, dataset, sites, scoring="generate", text=how)
    scores = score_rows(checkpoint, dataset, [], split="fit", scoring="generate", text=how)
    predicted = {dataset.row[row]: scores.predicted[0, i] for i, row in enumerate(scores.rows)}
    assert scores.correct is scores.correct, "found once: every method of a site asks for one row of it"
    correct = {dataset.row[row]: scores.correct[0, i] for i, row in enumerate(scores.rows)}
    fit = [i for i, split in enumerate(found.split) if split == "fit"]
    assert [found.predicted[i] for i in fit] == [
        None if predicted[found.row[i]] < 0 else scores.concepts[predicted[found.row[i]]] for i in fit
    ]
    assert [found.correct[i] for i in fit] == [correct[found.row[i]] for i in fit]
    assert 0 < sum(found.correct) < len(found)
    text = how.model_copy(update={"labels": {**how.labels, "health": " old"}})
    other = collect_activations(checkpoint, dataset, sites, scoring="constrained", text=text)
    for site in found.sites:
        np.testing.assert_array_equal(found.values[site], other.values[site])
    np.testing.assert_array_equal(found.position, other.position)
    assert found.predicted != other.predicted


def test_the_longest_prompt_leaves_room_for_the_answer(checkpoints, dataset):
    """GPT-2 has no position past its last: without room the second generated token would break."""
    checkpoint = checkpoints("gpt2")
    long = replace(dataset, text=[f"{text} " * 40 for text in dataset.text])
    how = DatasetParams(prompt="{text} Topic:", max_tokens=1000, labels={"sports": " virus and health"})
    edits = some_edits(checkpoint.config)[:1]
    scores = score_rows(checkpoint, long, edits, scoring="generate", text=how)
    assert scores.looked_at[1].max() >= (longest_input(checkpoint) - 4) * len(edits[0].neurons)
    collect_activations(checkpoint, long, scoring="generate", text=how)


def test_positions_last_looks_at_one_token_a_row(checkpoints, dataset):
    checkpoint = checkpoints("gemma2")
    neurons = torch.arange(5)
    everything = torch.full((5, 1), torch.inf)
    edits = [
        masking(Site(1, "resid_post"), neurons, -everything, everything, positions=positions)
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
