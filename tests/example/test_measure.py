"""Batches and padding change no measurement."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronlens.example import PROMPT
from neuronlens.example.lexicon import TOPICS
from neuronlens.example.measure import language_model_accuracy, perplexity


@pytest.fixture
def rows(corpus):
    return [row for row in corpus.audited if row.split == "test"][:40]


@pytest.fixture(scope="module")
def checkpoint(example):
    return example.language_models[-1]


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
