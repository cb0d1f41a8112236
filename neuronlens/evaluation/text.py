"""What ordinary text costs an edited model: losses of its tokens, and perplexity.

The stock model runs up to the entrance of its unembedding; from there the losses are computed without a tensor of all logits. An edit of
what the last block gives changes the losses behind the tokens that it changes, and no others, so only those are computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.batching import Batch, Halving, Ints, iterate, padding_of, token_budget_batches
from neuronlens.activations.hidden import hidden_of
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.checkpoint import Checkpoint
from neuronlens.encoding import Encoder, longest_input
from neuronlens.errors import DatasetError
from neuronlens.evaluation.lmhead import HiddenChange, head_of
from neuronlens.evaluation.predictions import Predictions
from neuronlens.evaluation.suffix import resumed_passes, run_unedited, split_at_head
from neuronlens.evaluation.uncertainty import ratio
from neuronlens.evaluation.unembedding import Unembedding
from neuronlens.interventions.kinds import AnyEdit, Edit
from neuronlens.interventions.latents import on_activations
from neuronlens.sites import layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Doubles = npt.NDArray[np.float64]

PERPLEXITY = ("perplexity", "base_perplexity", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high")

# Bytes of the vectors that edits of the last block's output are given at once; before and behind the norm and for the update of the logits
# they are held up to three times.
_EDITED_BYTES = 256 << 20


def document_losses(
    checkpoint: Checkpoint, documents: Sequence[str], interventions: Sequence[AnyEdit], *, max_tokens: int = 128
) -> tuple[Doubles, Ints]:
    """Negative log likelihood of ordinary text, unedited (index 0) and under each intervention (1 to M).

    Documents of a single token predict nothing and are left out; padding is in neither sum. A batch that does not fit into memory is cut.

    Returns:
        [M + 1, N] sum of each document's token losses in nats, and [N] how many tokens were predicted.
    """
    scorer = TextScorer.of(checkpoint, documents, interventions, max_tokens=max_tokens)
    return scorer.together([scorer.score(range(len(scorer.batches)))])


@dataclass(frozen=True)
class TextScorer:
    """Computes losses of documents, some batches at a time; see `document_losses`.

    Attributes:
        encoded: [N] token ids of the documents that predict something.
        batches: of them.
    """

    checkpoint: Checkpoint
    interventions: Sequence[AnyEdit]
    encoded: Sequence[Sequence[int]]
    batches: Sequence[Ints]

    @cached_property
    def _unembedding(self) -> Unembedding | None:
        return Unembedding.of(self.checkpoint.model)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        documents: Sequence[str],
        interventions: Sequence[AnyEdit],
        *,
        max_tokens: int = 128,
    ) -> TextScorer:
        """See `document_losses`.

        Raises:
            DatasetError: no document has two tokens.
        """
        encoder = Encoder(checkpoint.tokenizer, min(max_tokens, longest_input(checkpoint)))
        encoded = [ids for ids in encoder.encode(documents) if len(ids) > 1]
        if not encoded:
            raise DatasetError(
                "no document has two tokens", where="evaluate.auxiliary", cure="Perplexity needs running text."
            )
        batches = token_budget_batches([len(ids) for ids in encoded], batch_budget("auto", checkpoint.model))
        return cls(checkpoint, on_activations(checkpoint.model, interventions), encoded, batches)

    @torch.inference_mode()
    def score(self, some: range) -> tuple[Ints, Doubles]:
        """[n] which documents some batches hold, and [M + 1, n] the sums of their tokens' losses."""
        model, checkpoint = self.checkpoint.model, self.checkpoint
        batches = [self.batches[i] for i in some]
        losses, halving = np.zeros((len(self.interventions) + 1, len(self.encoded))), Halving()

        def run(batch: Batch) -> Iterator[tuple[int, torch.Tensor]]:
            return _text_losses(model, self._unembedding, self.interventions, batch)

        for batch in iterate(self.encoded, batches, pad_id=padding_of(checkpoint), device=model.device):
            for part, (index, found) in halving.stream(batch, run):
                losses[index, part.rows] = found.cpu()
        columns = np.concatenate(batches)
        return columns, losses[:, columns]

    def together(self, parts: Sequence[tuple[Ints, Doubles]]) -> tuple[Doubles, Ints]:
        """What `document_losses` returns."""
        order = np.argsort(np.concatenate([columns for columns, _ in parts]))
        losses = np.concatenate([found for _, found in parts], axis=1)[:, order]
        return losses, np.array([len(ids) - 1 for ids in self.encoded], dtype=np.int64)


def perplexity(losses: Doubles, predicted: Ints) -> Doubles:
    """[M] exp(sum of the losses [M, N] / number of predicted tokens)."""
    return np.asarray(np.exp(losses.sum(axis=-1) / predicted.sum()))


def perplexity_columns(found: tuple[Doubles, Ints] | None, edits: int) -> list[dict[str, float | None]]:
    """[M] the columns `PERPLEXITY` of results.parquet: with the edit and without, and their ratio with its interval over documents.

    Args:
        found: what `document_losses` returned; None where there was no text, and so are all columns then.
        edits: M.
    """
    if found is None:
        return [dict.fromkeys(PERPLEXITY) for _ in range(edits)]
    losses, predicted = found
    values = perplexity(losses, predicted)
    with np.errstate(over="ignore"):
        spread = np.exp(ratio(losses[1:] - losses[0], predicted))
    return [
        dict(zip(PERPLEXITY, map(float, (value, values[0], *spread[:, i])), strict=True))
        for i, value in enumerate(values[1:])
    ]


def text_losses(
    model: PreTrainedModel, interventions: Sequence[AnyEdit], batch: Batch
) -> Iterator[tuple[int, torch.Tensor]]:
    """Losses of the documents of a batch, unedited (index 0) and under each intervention (1 to M), in no particular order.

    Called where no gradients are kept.

    Yields:
        Index, and [B] float64 the sum of the losses of each document's tokens, in nats.
    """
    return _text_losses(model, Unembedding.of(model), interventions, batch)


def _text_losses(
    model: PreTrainedModel, unembedding: Unembedding | None, interventions: Sequence[AnyEdit], batch: Batch
) -> Iterator[tuple[int, torch.Tensor]]:
    """`text_losses`, where the model's unembedding is known; None leaves the head to the model's own code."""
    predictions = Predictions.of(batch)
    head = head_of(model, batch, predictions, unembedding)
    ends, others = split_at_head(model, interventions)
    vectors, tracker, outputs = run_unedited(model, interventions, head.vectors)
    passes = resumed_passes(model, [*others.values()], outputs, head.vectors)
    for i, (edited, _) in zip(others, passes, strict=True):
        yield i + 1, predictions.per_document(head.losses(edited)[0])
    size = max(1, _EDITED_BYTES // max(1, vectors.numel() * vectors.element_size()))
    for start in range(0, max(1, len(ends)), size):
        group = [*ends][start : start + size]
        changes = [_change(model, ends[i], predictions, tracker, outputs) for i in group]
        plain, *changed = head.losses(vectors, changes)
        if start == 0:
            yield 0, predictions.per_document(plain)
        for i, change, losses in zip(group, changes, changed, strict=True):
            yield i + 1, predictions.per_document(plain.index_copy(0, change.places.to(plain.device), losses))


def _change(
    model: PreTrainedModel, item: Edit, predictions: Predictions, tracker: TokenTracker, outputs: Mapping[int, Any]
) -> HiddenChange:
    """What an edit of the last block's output does to the tokens that predict another."""
    output = outputs[layer_count(model.config)]
    hidden = hidden_of(output)
    tokens = tracker.where(item.positions, resolve_pooling(item.pooling, model.config)).to(hidden.device)
    own = predictions.pick(hidden)[:, None]
    edited, _ = item.to(hidden.device).apply(own, predictions.pick(tokens)[:, None])
    differs = (edited != own)[:, 0]
    places = differs.any(dim=1).nonzero()[:, 0]
    return HiddenChange(places, edited[places], differs[places], output)
