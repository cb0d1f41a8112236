"""How well the example's checkpoints do, loaded from disk as anybody would load them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedTokenizerBase,
)

from neuronlens.example import PROMPT
from neuronlens.example.corpus import Row
from neuronlens.example.lexicon import TOPICS

_BATCH = 100


def label_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that answers the prompt, for each topic in the order of `TOPICS`."""
    return [tokenizer.encode(f" {topic}")[0] for topic in TOPICS]


@torch.inference_mode()
def classifier_accuracy(checkpoint: Path, rows: Sequence[Row]) -> float:
    """Share of rows whose own class has the largest logit."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    batches = _batches(AutoTokenizer.from_pretrained(checkpoint), [row.text for row in rows])
    predicted = torch.cat([model(**batch).logits.argmax(-1) for batch in batches])  # [row]
    return _accuracy(predicted, rows)


@torch.inference_mode()
def language_model_accuracy(checkpoint: Path, rows: Sequence[Row]) -> float:
    """Share of rows whose own label's first token is, at the end of the prompt, the likeliest among all labels' first tokens."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    answers = label_tokens(tokenizer)
    predicted = []
    for batch in _batches(tokenizer, [PROMPT.format(text=row.text) for row in rows]):
        last = batch["attention_mask"].sum(1) - 1  # [row] position of the prompt's last token
        logits = model(**batch).logits[torch.arange(len(last)), last]  # [row, token]
        predicted.append(logits[:, answers].argmax(-1))
    return _accuracy(torch.cat(predicted), rows)


@torch.inference_mode()
def perplexity(checkpoint: Path, texts: Sequence[str]) -> float:
    """exp(sum of negative log-likelihoods / number of predicted tokens) over all texts; padding is in neither."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    total, count = 0.0, 0
    for batch in _batches(AutoTokenizer.from_pretrained(checkpoint), texts):
        target = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:].flatten()
        total += F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), target, reduction="sum").item()
        count += int((target >= 0).sum())
    return math.exp(total / count)


def _batches(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[BatchEncoding]:
    """Right-padded batches: input_ids and attention_mask are [row, token]."""
    for start in range(0, len(texts), _BATCH):
        yield tokenizer(list(texts[start : start + _BATCH]), padding=True, padding_side="right", return_tensors="pt")


def _accuracy(predicted: torch.Tensor, rows: Sequence[Row]) -> float:
    """Share of rows whose topic has the predicted index in `TOPICS`."""
    return sum(TOPICS[index] == row.label for index, row in zip(predicted.tolist(), rows, strict=True)) / len(rows)
