"""What a model answers: the logits that decide a row, and from them a concept and a confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from neuronlens.activations.batching import Batch
from neuronlens.config import Scoring
from neuronlens.encoding import Labels
from neuronlens.sites import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Answers:
    """Of the rows of a batch, on the CPU.

    Attributes:
        predicted: [B] index of the concept the model names, -1 where it names none.
        confidence: [B, C] float32 probability of each concept (classifiers: softmax over the classes; language models: full-vocabulary
            softmax, at the first token of its label).
    """

    predicted: torch.Tensor
    confidence: torch.Tensor


def deciding_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[B, V] float32: the class logits, or the next-token logits behind the last real token of each row.

    The language-model head runs on the rows' last columns only. Sorted batches end at few different columns, so it costs next to nothing.
    """
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if not family_of(model.config.model_type).decoder:
        classes: torch.Tensor = model(**inputs).logits
        return classes.float()
    inputs["position_ids"] = batch.position_ids
    width = batch.input_ids.shape[1]
    last = width - 1 - batch.attention_mask.flip(1).argmax(dim=1)
    columns, place = last.unique(return_inverse=True)
    logits: torch.Tensor = model(**inputs, use_cache=False, logits_to_keep=columns).logits
    return logits[torch.arange(len(logits), device=logits.device), place].float()


def read_answers(logits: torch.Tensor, labels: Labels, scoring: Scoring, *, classifier: bool) -> Answers:
    """Concepts and confidences from deciding logits [B, V].

    Args:
        scoring: `constrained` takes the best of the labels, `free` the best of the vocabulary, which may be no label. Classifiers always
            take the best of all their classes.
    """
    ids = torch.tensor(labels.ids, device=logits.device)
    confidence = logits.softmax(dim=-1)[:, ids]
    if scoring == "constrained" and not classifier:
        return Answers(logits[:, ids].argmax(dim=-1).cpu(), confidence.cpu())
    hit = logits.argmax(dim=-1)[:, None] == ids
    predicted = torch.where(hit.any(dim=1), hit.int().argmax(dim=1), -1)
    return Answers(predicted.cpu(), confidence.cpu())
