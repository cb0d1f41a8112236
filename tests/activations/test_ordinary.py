"""Ordinary tokens: what a plain forward pass of one row gives, away from the place where ranges are fitted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuronlens.activations import ordinary as module
from neuronlens.activations.extract import collect_activations
from neuronlens.activations.ordinary import Ordinary, collect_ordinary, read_ordinary, write_ordinary
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import DatasetParams
from neuronlens.errors import NonFiniteActivationError
from neuronlens.sites import Site
from tests.conftest import sentences
from tests.models import CONCEPTS, FAMILIES, HIDDEN, INNER, LANGUAGE_MODELS
from tests.reference import BLOCKS, DOWN, deciding, everywhere

EVERYWHERE = ["resid_post.all", "mlp_post.all"]
SITES = [Site(layer, component) for layer in range(3) for component in ("resid_post", "mlp_post")]
DOCUMENTS = sentences(12, seed=1)
SITE = Site(2, "resid_post")


def encoded(checkpoint, dataset, family, documents=()):
    """(token ids, concept, columns that are ordinary) of each fit row, and of each document; rows of language models in their prompt."""
    prompt = "{text}\nTopic:" if family in LANGUAGE_MODELS else "{text}"
    found = []
    for text, concept, split in zip(dataset.text, dataset.concept, dataset.split, strict=True):
        if split == "fit":
            ids = checkpoint.tokenizer(prompt.replace("{text}", text))["input_ids"]
            found.append((ids, concept, [i for i in range(len(ids)) if i != deciding(family, ids)]))
    texts = [checkpoint.tokenizer(text)["input_ids"] for text in documents]
    return found + [(ids, "", list(range(len(ids)))) for ids in texts]


def by_hand(checkpoint, family, site, texts):
    """[D, n] one forward pass a text."""
    passes = [everywhere(checkpoint.model, family, site.layer, site.component, ids)[at] for ids, _, at in texts]
    return np.concatenate(passes).T


def places(values, candidates):
    """Which of the candidates [D, m] each token [D, n] is."""
    distance = np.abs(values[:, :, None] - candidates[:, None, :]).max(axis=0)
    assert (distance.min(axis=1) < 1e-4).all()
    return distance.argmin(axis=1)


@pytest.mark.parametrize("documents", [(), DOCUMENTS], ids=["rows", "documents"])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_activations_of_a_plain_pass_over_each_text(checkpoints, dataset, family, documents):
    """All texts are short enough to be read whole: every position but the one that stands for a row, and every token of documents."""
    checkpoint = checkpoints(family)
    found = collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=documents)
    texts = encoded(checkpoint, dataset, family, documents)
    assert set(found) == set(SITES)
    for site in SITES:
        assert found[site].values.shape[0] == (HIDDEN if site.component == "resid_post" else INNER)
        assert found[site].values.dtype == np.float32
        expected = by_hand(checkpoint, family, site, texts)
        np.testing.assert_allclose(found[site].values, expected, rtol=1e-4, atol=2e-5)
        assert found[site].concept == [concept for _, concept, at in texts for _ in at]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_pooled_activations_are_not_among_them(checkpoints, dataset, family):
    """Compared with what the fit reads."""
    checkpoint = checkpoints(family)
    found = collect_ordinary(checkpoint, dataset)[SITE].values
    pooled = collect_activations(checkpoint, dataset)
    fit = pooled.values[SITE][:, [split == "fit" for split in pooled.split]]
    assert np.abs(found[:, :, None] - fit[:, None, :]).max(axis=0).min() > 1e-3


@pytest.mark.parametrize(
    ("pooling", "kept"), [("first", slice(1, None)), ("last", slice(None, -1)), ("mean", slice(None))]
)
def test_the_position_left_out_is_the_one_that_is_pooled(checkpoints, dataset, pooling, kept):
    """With mean pooling no single token stands for a row."""
    checkpoint = checkpoints("gpt2")
    texts = [(ids, concept, list(range(len(ids)))[kept]) for ids, concept, _ in encoded(checkpoint, dataset, "gpt2")]
    found = collect_ordinary(checkpoint, dataset, pooling=pooling)[SITE]
    np.testing.assert_allclose(found.values, by_hand(checkpoint, "gpt2", SITE, texts), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["distilbert", "qwen2"])
def test_a_sample_is_half_from_documents_and_no_token_comes_twice(checkpoints, dataset, family, monkeypatch):
    checkpoint = checkpoints(family)
    monkeypatch.setattr(module, "TOKENS", 100)
    found = collect_ordinary(checkpoint, dataset, documents=DOCUMENTS)[SITE]
    texts = encoded(checkpoint, dataset, family, DOCUMENTS)
    assert found.values.shape == (HIDDEN, 100)
    assert found.concept.count("") == 50
    # the same words at the same places give the same activations, in decoders: compared within the part they were drawn from
    for documents in (False, True):
        part = [text for text in texts if (text[1] == "") == documents]
        candidates = by_hand(checkpoint, family, SITE, part)
        distinct = np.unique(candidates.round(4), axis=1).shape[1]
        drawn = places(found.values[:, np.array([not concept for concept in found.concept]) == documents], candidates)
        assert len(set(drawn)) >= 50 - (candidates.shape[1] - distinct)
    assert set(found.concept) >= set(CONCEPTS), "rows of every concept"


def test_without_documents_all_come_from_rows(checkpoints, dataset, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 60)
    found = collect_ordinary(checkpoints("gpt2"), dataset)[SITE]
    assert found.values.shape == (HIDDEN, 60)
    assert set(found.concept) <= set(CONCEPTS)


def test_few_documents_are_made_up_for_by_rows(checkpoints, dataset, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 60)
    found = collect_ordinary(checkpoints("gpt2"), dataset, documents=["the bank"])[SITE]
    assert found.concept.count("") == len(checkpoints("gpt2").tokenizer("the bank")["input_ids"])
    assert found.values.shape == (HIDDEN, 60)


def test_only_fit_rows_are_read(checkpoints, dataset):
    """Other words in the other rows change nothing."""
    checkpoint = checkpoints("bert")
    poisoned = ["sports" if split != "fit" else text for text, split in zip(dataset.text, dataset.split, strict=True)]
    one, two = (
        collect_ordinary(checkpoint, data)[SITE] for data in (dataset, dataclasses.replace(dataset, text=poisoned))
    )
    np.testing.assert_array_equal(one.values, two.values)


def test_texts_and_tokens_are_bounded(checkpoints, dataset, monkeypatch):
    """A long corpus is not read whole: so many texts of either kind at most, drawn from all fit rows."""
    checkpoint = checkpoints("gpt2")
    monkeypatch.setattr(module, "TEXTS", 5)
    seen = set()
    for seed in range(4):
        found = collect_ordinary(checkpoint, dataset, documents=DOCUMENTS, seed=seed)[SITE]
        read = encoded(checkpoint, dataset, "gpt2", DOCUMENTS[:5])[-5:]
        assert found.concept.count("") == sum(len(ids) for ids, _, _ in read)
        seen |= set(found.concept)
    assert seen == {"", *CONCEPTS}


@pytest.mark.parametrize("family", ["roberta", "gemma2"])
def test_batches_and_the_tokenizers_padding_side_do_not_matter(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    whole = collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=DOCUMENTS)
    other = load_checkpoint(checkpoint.path)
    other.tokenizer.padding_side = other.tokenizer.truncation_side = "left"
    for found in (
        *(collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=DOCUMENTS, batch_tokens=n) for n in (1, 37)),
        collect_ordinary(other, dataset, EVERYWHERE, documents=DOCUMENTS),
    ):
        for site in SITES:
            np.testing.assert_array_equal(found[site].concept, whole[site].concept)
            np.testing.assert_allclose(found[site].values, whole[site].values, rtol=1e-4, atol=2e-5)


def test_the_seed_draws_the_tokens(checkpoints, dataset, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 40)
    checkpoint = checkpoints("gpt2")
    one, two, other = (
        collect_ordinary(checkpoint, dataset, documents=DOCUMENTS, seed=seed)[SITE] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.concept, two.concept)
    assert not np.array_equal(one.values, other.values)


def test_texts_are_cut_like_the_rows(checkpoints, dataset):
    found = collect_ordinary(checkpoints("bert"), dataset, documents=DOCUMENTS, text=DatasetParams(max_tokens=5))[SITE]
    texts = [
        (ids if len(ids) <= 5 else [*ids[:4], ids[-1]], concept, [i for i in at if i < 5])
        for ids, concept, at in encoded(checkpoints("bert"), dataset, "bert", DOCUMENTS)
    ]
    np.testing.assert_allclose(found.values, by_hand(checkpoints("bert"), "bert", SITE, texts), rtol=1e-4, atol=2e-5)


def test_without_a_concept_are_the_tokens_in_no_row_of_it():
    found = Ordinary(np.arange(10, dtype=np.float32).reshape(2, 5), ["", "a", "b", "a", ""])
    assert found.without("a").tolist() == [[0.0, 2.0, 4.0], [5.0, 7.0, 9.0]]
    assert found.without("c").tolist() == found.values.tolist()


def test_they_come_back_as_they_went(checkpoints, dataset, tmp_path):
    found = collect_ordinary(checkpoints("bert"), dataset, EVERYWHERE, documents=DOCUMENTS)
    write_ordinary(tmp_path, found)
    for site, part in found.items():
        back = read_ordinary(tmp_path, site)
        np.testing.assert_array_equal(back.values, part.values)
        np.testing.assert_array_equal(back.concept, part.concept)
        assert back.values.dtype == np.float32
        assert back.without("").shape[1] == sum(map(bool, part.concept))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_broken_weight_is_an_error_that_names_the_site(checkpoints, dataset, family):
    checkpoint = load_checkpoint(checkpoints(family).path)
    with torch.no_grad():
        checkpoint.model.get_submodule(BLOCKS[family])[2].get_submodule(DOWN[family]).weight.view(-1)[3] = float("nan")
    with pytest.raises(NonFiniteActivationError, match=r"site resid_post\.2: .*not finite; try checkpoint\.dtype"):
        collect_ordinary(checkpoint, dataset)
    collect_ordinary(checkpoint, dataset, ["resid_post.1"])


def test_documents_that_do_not_fit_into_memory_together_are_read_apart(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("gpt2")
    whole = collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=DOCUMENTS)
    forward, failed = module.deciding_hidden, []

    def short_of_memory(model, batch):
        if len(batch) > 2:
            failed.append(len(batch))
            raise torch.OutOfMemoryError
        return forward(model, batch)

    monkeypatch.setattr(module, "deciding_hidden", short_of_memory)
    cut = collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=DOCUMENTS)
    assert failed
    for site, own in whole.items():
        np.testing.assert_allclose(cut[site].values, own.values, rtol=1e-4, atol=1e-5)
        assert cut[site].concept == own.concept
