"""What ordinary text costs an edited model: losses of its tokens, and perplexity.

An edit of what the last block gives changes the losses behind the tokens that it changes, and no others, so only those are computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.batching import Batch, Ints, iterate, pad_id_of, token_budget_batches
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.checkpoint import Checkpoint
from neuronlens.encoding import Encoder, longest_input
from neuronlens.errors import DatasetError
from neuronlens.evaluation.head import head_logits, logit_bytes
from neuronlens.evaluation.suffix import resumed_passes, run_unedited, split_at_head
from neuronlens.interventions.edit import Edit
from neuronlens.progress import track
from neuronlens.sites import layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Doubles = npt.NDArray[np.float64]


def document_losses(
    checkpoint: Checkpoint, documents: Sequence[str], interventions: Sequence[Edit], *, max_tokens: int = 128
) -> tuple[Doubles, Ints]:
    """Negative log likelihood of ordinary text, unedited (index 0) and under each intervention (1 to M).

    Documents of a single token predict nothing and are left out; padding is in neither sum.

    Returns:
        [M + 1, N] sum of each document's token losses in nats, and [N] how many tokens were predicted.
    """
    model = checkpoint.model
    encoder = Encoder(checkpoint.tokenizer, min(max_tokens, longest_input(checkpoint)))
    encoded = [ids for ids in encoder.encode(documents) if len(ids) > 1]
    if not encoded:
        raise DatasetError(
            "no document has two tokens", where="evaluate.auxiliary", cure="Perplexity needs running text."
        )
    losses = np.zeros((len(interventions) + 1, len(encoded)))
    budget = max(1, logit_bytes(model.device) // (4 * int(model.config.vocab_size)))
    batches = token_budget_batches([len(ids) for ids in encoded], budget)
    with torch.inference_mode():
        passes = (
            (batch.rows, index, found)
            for batch in iterate(encoded, batches, pad_id=pad_id_of(checkpoint.tokenizer), device=model.device)
            for index, found in text_losses(model, interventions, batch)
        )
        for rows, index, found in track(passes, len(batches) * (len(interventions) + 1), "perplexity"):
            losses[index, rows] = found.double().cpu()
    return losses, np.array([len(ids) - 1 for ids in encoded], dtype=np.int64)


def perplexity(losses: Doubles, predicted: Ints) -> Doubles:
    """[M] exp(sum of the losses [M, N] / number of predicted tokens)."""
    return np.asarray(np.exp(losses.sum(axis=-1) / predicted.sum()))


def text_losses(
    model: PreTrainedModel, interventions: Sequence[Edit], batch: Batch
) -> Iterator[tuple[int, torch.Tensor]]:
    """Losses of the documents of a batch, unedited (index 0) and under each intervention (1 to M), in no particular order.

    Yields:
        Index, and [B] the sum of the losses of each document's tokens, in nats.
    """
    ends, others = split_at_head(model, interventions)
    plain, tracker, outputs = run_unedited(model, interventions, lambda: _token_losses(model, batch))
    yield 0, plain.sum(dim=1)
    passes = resumed_passes(model, [interventions[i] for i in others], outputs, lambda: _token_losses(model, batch))
    for i, (losses, _) in zip(others, passes, strict=True):
        yield i + 1, losses.sum(dim=1)
    if not ends:
        return
    output = outputs[layer_count(model.config)]
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    predicting = batch.attention_mask[:, 1:].bool()
    for i in ends:
        item = interventions[i].to(hidden.device)
        tokens = tracker.where(item.positions, resolve_pooling(item.pooling, model.config.model_type))
        edited, changed = item.apply(hidden, tokens.to(hidden.device))
        anew = changed.any(dim=-1)[:, :-1].to(predicting.device) & predicting
        losses = plain
        if anew.any():
            logits = head_logits(model, edited[:, :-1][anew.to(edited.device)][:, None], output)
            losses = plain.clone()
            losses[anew] = _losses(logits, batch.input_ids[:, 1:][anew])
        yield i + 1, losses.sum(dim=1)


def _token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[B, T - 1] of every token but a row's first; 0 for padding."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits[:, :-1].float()
    return _losses(logits, batch.input_ids[:, 1:]) * batch.attention_mask[:, 1:]


def _losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[...] cross-entropy of logits [..., V] and tokens [...]."""
    # cross_entropy wants the vocabulary in the middle, [B, V, T], and takes three times as long over it
    return logits.logsumexp(dim=-1) - logits.gather(-1, tokens[..., None])[..., 0]
