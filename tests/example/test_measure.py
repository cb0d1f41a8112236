"""Batches and padding change no measurement."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from neuronlens.example import PROMPT
from neuronlens.example.lexicon import TOPICS
from neuronlens.example.measure import language_model_accuracy, perplexity
from neuronlens.example.vocabulary import MAX_TOKENS, byte_pairs


@pytest.fixture
def rows(corpus):
    return [row for row in corpus.audited if row.split == "test"][:40]


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """The example's tokenizer with a small model that has learned nothing: measures need no more."""
    folder = tmp_path_factory.mktemp("random") / "checkpoint-1"
    texts = [f"{PROMPT.format(text=row.text)} {row.label}" for row in corpus.training[:1000]]
    tokenizer = byte_pairs(texts)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_positions": MAX_TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_perplexity_is_that_of_documents_one_at_a_time(checkpoint, rows):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    total = count = 0
    for row in rows:
        ids = tokenizer(row.text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        total -= logprobs[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum().item()
        count += ids.shape[1] - 1
    assert perplexity(checkpoint, [row.text for row in rows]) == pytest.approx(math.exp(total / count), rel=1e-5)


def test_a_language_model_is_right_where_generation_among_the_labels_is(checkpoint, rows):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    right = 0
    for row in rows:
        prompt = tokenizer(PROMPT.format(text=row.text), return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(prompt).logits[0, -1]
        right += max(TOPICS, key=lambda topic: logits[tokenizer(f" {topic}")["input_ids"][0]]) == row.label
    assert language_model_accuracy(checkpoint, rows) == right / len(rows)
