"""Losses of ordinary text by short cuts are those of a whole pass with the same hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.activations import head
from neuronlens.activations.batching import collate
from neuronlens.errors import DatasetError
from neuronlens.evaluation import text
from neuronlens.evaluation.text import document_losses, perplexity_columns, text_losses
from neuronlens.evaluation.uncertainty import ratio
from neuronlens.evaluation.unembedding import Unembedding
from neuronlens.interventions.edit import edit
from neuronlens.sites import Site
from tests.conftest import hooks, sentences
from tests.evaluation.by_hand import masking
from tests.evaluation.edits import SITES, erasing, gated, half
from tests.models import LANGUAGE_MODELS, LAYERS, WORDS

LAST = Site(LAYERS - 1, "resid_post")


def documents(checkpoint, side="right", rows=5):
    encoded = checkpoint.tokenizer(sentences(rows, seed=3))["input_ids"]
    encoded[1] = encoded[1][:1]
    return encoded, collate(encoded, np.arange(rows), pad_id=0, device="cpu", side=side)


def by_hand(model, encoded):
    """Sum of the losses of every token but the first, a document at a time."""
    found = []
    for ids in encoded:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids)[1:], reduction="sum")))
    return found


def few(config, site, positions="all"):
    """Edit three neurons, most of the time."""
    return masking(
        site, torch.tensor([2, 9, 11]), torch.full((3, 1), -5.0), torch.full((3, 1), 5.0), positions=positions
    )


@torch.inference_mode()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("positions", ["all", "pooled", "last"])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_every_edit_has_the_losses_of_a_whole_pass(checkpoints, family, positions, side):
    checkpoint = checkpoints(family)
    model, (encoded, batch) = checkpoint.model, documents(checkpoint, side)
    edits = [half(model.config, site, operator, positions) for site in SITES for operator in ("zero", "dampen")]
    edits += [gated(half(model.config, LAST, positions=positions)), erasing(model.config, LAST, positions)]
    edits += [few(model.config, LAST, positions)]
    found = dict(text_losses(model, edits, batch))
    assert sorted(found) == list(range(len(edits) + 1))
    plain = by_hand(model, encoded)
    assert found[0].tolist() == pytest.approx(plain, rel=1e-5)
    assert float(found[0][1]) == 0
    moved = 0
    for index, item in enumerate(edits, start=1):
        with edit(model, item):
            whole = by_hand(model, encoded)
        assert found[index].tolist() == pytest.approx(whole, rel=3e-6 if item.site == LAST else 1e-5), item.site
        moved += whole != pytest.approx(plain, rel=1e-4)
    # the last token of a document, which is what is pooled, predicts nothing of it
    assert moved == (len(edits) if positions == "all" else 0)
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_head_that_is_not_known_gives_the_same_losses(checkpoints, family, monkeypatch):
    checkpoint = checkpoints(family)
    model, (_, batch) = checkpoint.model, documents(checkpoint)
    edits = [half(model.config, SITES[2]), half(model.config, LAST), half(model.config, LAST).idle()]
    edits += [erasing(model.config, LAST, "all"), few(model.config, LAST)]
    known = dict(text_losses(model, edits, batch))
    monkeypatch.setattr(Unembedding, "of", lambda _: None)
    for at_once in (1, 1 << 30):
        monkeypatch.setattr(head, "_LOGIT_BYTES", {"cpu": at_once})
        stock = dict(text_losses(model, edits, batch))
        assert sorted(stock) == sorted(known)
        for index, losses in stock.items():
            torch.testing.assert_close(losses, known[index], rtol=3e-6, atol=0)


@torch.inference_mode()
def test_a_head_that_does_more_than_a_matrix_is_left_to_the_model(checkpoints):
    """A scale behind the unembedding, which no config tells of."""
    checkpoint = checkpoints("gpt2")
    model, (encoded, batch) = checkpoint.model, documents(checkpoint)
    edits = [half(model.config, SITES[2]), few(model.config, LAST)]
    scaling = model.lm_head.register_forward_hook(lambda _, __, output: 0.5 * output)
    found = dict(text_losses(model, edits, batch))
    for index, item in enumerate(edits, start=1):
        with edit(model, item):
            assert found[index].tolist() == pytest.approx(by_hand(model, encoded), rel=1e-5)
    scaling.remove()


def test_documents_need_two_tokens_and_two_are_enough(checkpoints):
    checkpoint = checkpoints("gpt2", n_positions=160)
    assert len(checkpoint.tokenizer("a")["input_ids"]) == 1
    with pytest.raises(DatasetError) as caught:
        document_losses(checkpoint, ["a", ""], [])
    assert str(caught.value) == "evaluate.auxiliary: no document has two tokens. Perplexity needs running text."
    text = next(word for word in WORDS if len(checkpoint.tokenizer(f"{word} {word}")["input_ids"]) == 2)
    losses, tokens = document_losses(checkpoint, [f"{text} {text}"], [])
    assert losses.shape == (1, 1)
    assert tokens.tolist() == [1]
    long = " ".join([text] * 300)
    assert len(checkpoint.tokenizer(long)["input_ids"]) > 160
    assert document_losses(checkpoint, [long], [])[1].tolist() == [127], "128 tokens are read unless told otherwise"
    assert document_losses(checkpoint, [long], [], max_tokens=200)[1].tolist() == [159], "or as many as the model takes"


@torch.inference_mode()
@pytest.mark.parametrize("known", [True, False])
def test_documents_of_a_single_token_lose_nothing(checkpoints, known, monkeypatch):
    """Where a batch holds nothing else, there is nothing to predict."""
    model = checkpoints("gpt2").model
    if not known:
        monkeypatch.setattr(Unembedding, "of", lambda _: None)
    batch = collate([[5], [6]], np.arange(2), pad_id=0, device="cpu")
    edits = [half(model.config, SITES[2]), half(model.config, LAST)]
    found = dict(text_losses(model, edits, batch))
    assert {index: losses.tolist() for index, losses in found.items()} == {0: [0, 0], 1: [0, 0], 2: [0, 0]}


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_how_many_are_done_at_once_changes_nothing(checkpoints, family, monkeypatch):
    """Logits, edits and documents."""
    checkpoint = checkpoints(family)
    edits = [half(checkpoint.config, site) for site in (SITES[2], LAST, LAST)] + [few(checkpoint.config, LAST)]
    texts = sentences(6, seed=4)
    together, _ = document_losses(checkpoint, texts, edits)
    for logits, edited, tokens in ((1, 1 << 30, 64), (5000, 1, 64), (1 << 30, 3000, 1), (20000, 5000, 20)):
        monkeypatch.setattr(head, "_LOGIT_BYTES", {"cpu": logits})
        monkeypatch.setattr(text, "_EDITED_BYTES", edited)
        monkeypatch.setattr(text, "batch_budget", lambda *_, tokens=tokens: tokens)
        apart, _ = document_losses(checkpoint, texts, edits)
        np.testing.assert_allclose(apart, together, rtol=3e-6)


def test_documents_that_do_not_fit_into_memory_together_are_run_apart(checkpoints, monkeypatch):
    """Whatever was found of them before: each loss counts once."""
    checkpoint = checkpoints("gpt2")
    edits, texts = [half(checkpoint.config, site) for site in (SITES[2], LAST)], sentences(6, seed=4)
    whole, counts = document_losses(checkpoint, texts, edits)
    passes, failed = text._text_losses, []

    def short_of_memory(model, unembedding, interventions, batch):
        for done, found in enumerate(passes(model, unembedding, interventions, batch)):
            if done == 1 and len(batch) > 2:
                failed.append(len(batch))
                raise torch.OutOfMemoryError
            yield found

    monkeypatch.setattr(text, "_text_losses", short_of_memory)
    cut, counts_cut = document_losses(checkpoint, texts, edits)
    assert failed
    np.testing.assert_allclose(cut, whole, rtol=3e-6)
    np.testing.assert_array_equal(counts_cut, counts)


@torch.inference_mode()
def test_an_edit_that_changes_nothing_has_the_unedited_losses(checkpoints):
    """To the bit, and so has a token that an edit leaves as it was."""
    checkpoint = checkpoints("llama")
    model, (_, batch) = checkpoint.model, documents(checkpoint)
    idle = [half(model.config, LAST).idle(), masking(LAST, torch.tensor([3]), *torch.full((2, 1, 1), 99.0), "zero")]
    found = dict(text_losses(model, idle, batch))
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


@torch.inference_mode()
def test_only_tokens_that_an_edit_changes_go_through_the_head(checkpoints, monkeypatch):
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
    handle = model.transformer.ln_f.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:2].numel()))
    list(text._text_losses(model, Unembedding.of(model), [rare.idle(), rare], batch))
    handle.remove()
    assert rows[1:] == [batch.input_ids.numel(), int((own >= least).sum())]


@torch.inference_mode()
def test_the_blocks_run_once_and_the_head_on_a_single_row(checkpoints):
    """However many edits of the last block's output there are."""
    checkpoint = checkpoints("llama")
    model, (_, batch) = checkpoint.model, documents(checkpoint)
    unembedding = Unembedding.of(model)
    ran: list[int] = []
    handles = [
        model.model.layers[1].mlp.register_forward_hook(lambda *_: ran.append(0)),
        model.lm_head.register_forward_hook(lambda _, args, __: ran.append(args[0].shape[:2].numel())),
    ]
    edits = [few(model.config, LAST), half(model.config, LAST), erasing(model.config, LAST, "all")]
    list(text._text_losses(model, unembedding, edits, batch))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 1, 1, 1]


@pytest.mark.filterwarnings("error")
def test_the_columns_of_perplexity_are_those_of_every_edit():
    """A ratio whose interval reaches beyond all numbers is told without a warning."""
    losses, predicted = np.array([[20.0, 30, 44], [24.0, 33, 50], [20.0, 9000, 44]]), np.array([10, 12, 20])
    first, second = perplexity_columns((losses, predicted), 2)
    _, low, high = ratio(losses[1:] - losses[0], predicted)
    assert first == {
        "perplexity": pytest.approx(np.exp(107 / 42)),
        "base_perplexity": pytest.approx(np.exp(94 / 42)),
        "perplexity_ratio": pytest.approx(np.exp(13 / 42)),
        "perplexity_ratio_low": pytest.approx(np.exp(low[0])),
        "perplexity_ratio_high": pytest.approx(np.exp(high[0])),
    }
    assert second["perplexity"] == pytest.approx(np.exp(9064 / 42))
    assert second["base_perplexity"] == first["base_perplexity"]
    assert second["perplexity_ratio_high"] == np.inf
    assert perplexity_columns(None, 2) == [dict.fromkeys(first)] * 2
