"""Passes: the model runs over batches of labelled rows once, and everything that is wanted of them is read on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuronlens.activations.batching import Batch, Halving, Ints, collate, padding_of
from neuronlens.activations.capture import Captured, Leaving, capture, sent
from neuronlens.activations.head import deciding_hidden, head_logits, vectors_together
from neuronlens.activations.hidden import KEPT_SPLITS, Keeper, KeptBatch, hidden_of, off_device, record_blocks
from neuronlens.activations.last_block import can_follow_one_token, one_token_of_last_block
from neuronlens.activations.ordinary import DrawnTokens
from neuronlens.activations.readout import (
    Answers,
    continuations,
    deciding_columns,
    needed_tokens,
    only_tokens,
    read_answers,
)
from neuronlens.activations.store import Floats
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.checkpoint import Checkpoint
from neuronlens.dataset import Dataset
from neuronlens.encoding import Labels
from neuronlens.errors import NonFiniteActivationError
from neuronlens.sites import Site
from neuronlens.values import Pooling, Scoring

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pass:
    """What a batch of B rows gave.

    Attributes:
        rows: [B] places in the dataset.
        values: site -> [B, D] pooled activations.
        position: [B] column that was pooled, -1 for mean and max.
        deciding: what decides the unedited model's answers, as of `deciding_hidden`.
        texts: [B] what it goes on with, where that answers; else empty.
    """

    rows: Ints
    values: Mapping[Site, Floats]
    position: Ints
    deciding: Any
    texts: Sequence[str]


@dataclass(frozen=True)
class _Departed:
    """A pass whose values are on their way to main memory.

    Attributes:
        values, tokens: of the rows, and of the tokens drawn from them.
        position: [B], and what to wait for.
    """

    batch: Batch
    values: Leaving
    tokens: Leaving
    position: tuple[torch.Tensor, Callable[[], None]]
    deciding: Any
    texts: Sequence[str]
    outputs: dict[int, object]


def one_token_will_do(split: str, pooling: Pooling, model: PreTrainedModel) -> bool:
    """Whether the last block may follow one token of each row of a split alone, in batches from which no other is drawn.

    It may where the token that stands for a row is the one that decides it; not in splits that evaluation may have to run again, as it must
    find the same bits.
    """
    decides = resolve_pooling(pooling, model.config) == resolve_pooling("auto", model.config)
    return split not in KEPT_SPLITS and decides and can_follow_one_token(model)


@dataclass(frozen=True)
class Passes:
    """Runs the rows of a dataset.

    Attributes:
        encoded: [N] token ids of the rows.
        keeper: keeps hidden states and answers of some splits.
        drawn: columns of some rows that are read beside the one that stands for a row.
        halving: cuts batches that do not fit into memory.
    """

    checkpoint: Checkpoint
    dataset: Dataset
    encoded: Sequence[Sequence[int]]
    labels: Labels
    sites: Sequence[Site]
    pooling: Pooling
    scoring: Scoring
    keeper: Keeper | None = None
    drawn: DrawnTokens | None = None
    halving: Halving = field(default_factory=Halving)

    def over(self, batches: Iterable[tuple[str, int, Ints]]) -> Generator[list[Pass]]:
        """What each batch gave: one pass, or the passes over its parts, in the order of its rows.

        Args:
            batches: (split, place among the batches of the split, rows) of each, see `placed`.

        Raises:
            NonFiniteActivationError: an activation is NaN or infinite.
            OutOfMemoryError: a single row does not fit.
        """
        model, keeper = self.checkpoint.model, self.keeper
        pad_id = padding_of(self.checkpoint)
        waiting: list[_Departed] = []  # of the batch before, whose values travel while this one is run
        with torch.inference_mode(), capture(model, self.sites, self.pooling) as captured:
            for split, place, rows in batches:
                counts = keeper.counts if keeper is not None and keeper.keeps(split) else ()

                alone = one_token_will_do(split, self.pooling, model)

                def run(part: Batch, counts: Sequence[int] = counts, alone: bool = alone) -> _Departed:
                    return self._run(part, captured, counts, alone)

                batch = collate(self.encoded, rows, pad_id=pad_id, device=model.device)
                parts = [found for _, found in self.halving.run(batch, run)]
                if keeper is not None:
                    if len(parts) == 1:
                        [whole] = parts
                        kept = KeptBatch(whole.batch.rows, whole.outputs, off_device(whole.deciding), whole.texts)
                        keeper.add(split, place, kept)
                    else:
                        keeper.drop(split)  # these are not the batches that evaluation meets
                if waiting:
                    yield [self._arrived(part) for part in waiting]
                waiting = parts
            if waiting:
                yield [self._arrived(part) for part in waiting]

    def _run(self, batch: Batch, captured: Captured, counts: Sequence[int], alone: bool) -> _Departed:
        """A pass, with the output of block n - 1 for each n of `counts`.

        Args:
            alone: whether the last block may follow the deciding token alone, which it does where no other is drawn from the batch.
        """
        model, drawn = self.checkpoint.model, self.drawn
        captured.wanted = None if drawn is None else drawn.places(batch.rows)
        with record_blocks(model, counts, off_device) as outputs, contextlib.ExitStack() as stack:
            if alone and captured.wanted is None:
                stack.enter_context(one_token_of_last_block(model, deciding_columns(model, batch)))
            deciding = deciding_hidden(model, batch)
        values, tokens, position = Leaving(captured), Leaving(captured.tokens), sent(captured.position)
        captured.wanted = None
        # what was captured has been sent off, since generating captures anew
        texts: Sequence[str] = ()
        if self.scoring == "generate":
            texts = continuations(model, self.checkpoint.tokenizer, self.encoded, batch.rows, self.labels.longest + 1)
        return _Departed(batch, values, tokens, position, deciding, texts, outputs)

    def _arrived(self, part: _Departed) -> Pass:
        values, tokens, (position, wait) = part.values.arrived(), part.tokens.arrived(), part.position
        wait()
        self._refuse_non_finite(values, part.batch)
        if self.drawn is not None and tokens:
            self.drawn.store(part.batch.rows, tokens)
        return Pass(part.batch.rows, values, position.numpy(), part.deciding, part.texts)

    def answers(self, passes: Sequence[Pass]) -> Answers:
        """What the unedited model answers on the rows of some passes, in their order. The head reads its matrix once for many of them.

        Between two batches it may be asked for: what was captured of the first has been read by then.

        Raises:
            NonFiniteActivationError: a logit is NaN or infinite.
        """
        model, classifier = self.checkpoint.model, self.checkpoint.kind == "classifier"
        rows = np.concatenate([part.rows for part in passes])
        texts = [text for part in passes for text in part.texts]
        needed = needed_tokens(self.labels, self.scoring, classifier=classifier)
        found = []
        with torch.inference_mode(), only_tokens(model, needed):
            vectors = torch.cat([hidden_of(part.deciding) for part in passes])
            step = vectors_together(model, needed)
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                logits = head_logits(model, vectors[some], passes[0].deciding)
                answers = read_answers(logits, self.labels, self.scoring, classifier=classifier, texts=texts[some])
                for slot in answers.broken:
                    raise NonFiniteActivationError(
                        f"row {self.dataset.row[int(rows[some][slot])]}: a logit of the unedited model is not finite; "
                        "try checkpoint.dtype=float32, and check the weights"
                    )
                found.append(answers)
        return Answers(
            *(torch.cat(parts) for parts in zip(*((part.predicted, part.confidence) for part in found), strict=True))
        )

    def _refuse_non_finite(self, values: Mapping[Site, Floats], batch: Batch) -> None:
        for site, found in values.items():
            if np.isfinite(found).all():
                continue
            neuron, slot = np.argwhere(~np.isfinite(found.T))[0]
            raise NonFiniteActivationError(
                f"site {site}, neuron {neuron}, row {self.dataset.row[int(batch.rows[slot])]}: the activation is {found[slot, neuron]}; "
                "try checkpoint.dtype=float32, and check the weights"
            )
