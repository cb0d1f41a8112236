"""The language-model head: from the vectors of tokens to the losses of those that follow them.

`LinearHead` knows the unembedding and computes no more than the losses need. `StockHead` lets the model's own code make the logits, for
models whose head is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.head import head_logits, logit_bytes
from neuronlens.activations.hidden import hidden_of, record_blocks
from neuronlens.activations.readout import inputs_of, logits_of_columns
from neuronlens.evaluation.columns import update_between
from neuronlens.evaluation.crossentropy import Change, cross_entropies, token_losses
from neuronlens.evaluation.parents import parents
from neuronlens.evaluation.predictions import Predictions
from neuronlens.evaluation.unembedding import Unembedding, unembedded_vectors
from neuronlens.sites import layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HiddenChange:
    """What an edit of the last block's output changes.

    Attributes:
        places: [R] which of the predictions.
        hidden: [R, 1, D] their edited vectors.
        touched: [R, D] bool, which of their coordinates differ from what they were.
        output: what the last block returned, for its form.
    """

    places: torch.Tensor
    hidden: torch.Tensor
    touched: torch.Tensor
    output: Any


@dataclass(frozen=True)
class LinearHead:
    """The head of a model whose unembedding is known; a token is followed by its vector at the unembedding's entrance."""

    model: PreTrainedModel
    batch: Batch
    predictions: Predictions
    unembedding: Unembedding

    def vectors(self) -> torch.Tensor:
        """[P, D] of the predictions, from a pass through the blocks."""
        return self.predictions.pick(unembedded_vectors(self.model, lambda: _run(self.model, self.batch)))

    def losses(self, vectors: torch.Tensor, changes: Sequence[HiddenChange] = ()) -> list[torch.Tensor]:
        """Nats: [P] for the vectors as they are, and [R] under each change of what the last block gives."""
        following = self.predictions.following.to(vectors.device)
        edited = [self._edited(item) for item in changes]
        found = [Change(item.places.to(vectors.device), normed) for item, normed in zip(changes, edited, strict=True)]
        columns = ((item.places, item.hidden[:, 0], item.touched) for item in changes)
        for i, nearest in enumerate(parents(*zip(*columns, strict=True)) if changes else ()):
            places = found[i].places
            for parent in dict.fromkeys(
                (nearest, None)
            ):  # where it does not hold from the nearest edit, it may from the unedited
                if parent is None:
                    before, touched, rows = vectors[places], changes[i].touched, places
                else:
                    before, touched = edited[parent], (changes[i].hidden != changes[parent].hidden)[:, 0]
                    rows = torch.arange(len(places), device=places.device)
                update = update_between(self.unembedding, before, edited[i], touched.to(vectors.device), rows)
                if update is not None:
                    found[i] = replace(found[i], update=update, parent=parent)
                    break
        return cross_entropies(self.unembedding, vectors, following, found)

    def _edited(self, item: HiddenChange) -> torch.Tensor:
        """[R, D] at the unembedding's entrance."""
        if not len(item.places):
            return self.unembedding.weight[:0]
        return unembedded_vectors(self.model, lambda: head_logits(self.model, item.hidden, item.output))[:, 0]


class StockHead:
    """The head of any model; a token is followed by its vector behind the last block."""

    def __init__(self, model: PreTrainedModel, batch: Batch, predictions: Predictions) -> None:
        self.model, self.batch, self.predictions = model, batch, predictions
        self._output: Any = None

    def vectors(self) -> torch.Tensor:
        """[P, D] of the predictions, from a pass through the blocks."""
        count = layer_count(self.model.config)
        with record_blocks(self.model, [count]) as outputs:
            _run(self.model, self.batch, **logits_of_columns(self.model, 1))
        self._output = outputs[count]
        return self.predictions.pick(hidden_of(self._output))

    def losses(self, vectors: torch.Tensor, changes: Sequence[HiddenChange] = ()) -> list[torch.Tensor]:
        """Nats: [P] for the vectors as they are, and [R] under each change of what the last block gives."""
        following = self.predictions.following.to(vectors.device)
        plain = self._losses(vectors[:, None], following)
        return [plain, *(self._losses(item.hidden, following[item.places]) for item in changes)]

    def _losses(self, hidden: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """[R] of vectors [R, 1, D]."""
        losses = torch.zeros(len(hidden), device=hidden.device)
        size = max(1, logit_bytes(hidden.device) // (4 * int(self.model.config.vocab_size)))
        for start in range(0, len(hidden), size):
            some = slice(start, start + size)
            logits = head_logits(self.model, hidden[some], self._output)
            losses[some] = token_losses(logits, following[some].to(logits.device))
        return losses


def head_of(
    model: PreTrainedModel, batch: Batch, predictions: Predictions, unembedding: Unembedding | None
) -> LinearHead | StockHead:
    """The head by its unembedding, where that is known."""
    if unembedding is None:
        return StockHead(model, batch, predictions)
    return LinearHead(model, batch, predictions, unembedding)


def _run(model: PreTrainedModel, batch: Batch, **how: Any) -> None:
    model(**inputs_of(model, batch), **how)
