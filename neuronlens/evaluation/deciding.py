"""What decides the rows of a batch, unedited and under many edits, by the shortest exact way.

Behind the last block a model treats every token by itself, and only one token of a row decides. So an edit of what the last block gives
needs that token alone, and all such edits of a batch go through the final norm and the head together: the model's own code runs on a
batch of single tokens whose blocks return the edited vectors. Edits elsewhere run the blocks behind them (`neuronlens.evaluation.suffix`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.readout import deciding_columns, deciding_logits
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.evaluation.head import head_logits, logit_bytes
from neuronlens.evaluation.suffix import resumed_passes, run_unedited, split_at_head
from neuronlens.interventions.edit import Dose, Edit
from neuronlens.sites import family_of, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def deciding_passes(
    model: PreTrainedModel, interventions: Sequence[Edit], batch: Batch
) -> Iterator[tuple[int, torch.Tensor, Dose]]:
    """Deciding logits of a batch, unedited (index 0) and under each intervention (1 to M), in no particular order.

    Yields:
        Index, [B, V] float32 logits, and the edit's dose.
    """
    ends, others = split_at_head(model, interventions)
    logits, tracker, outputs = run_unedited(model, interventions, lambda: deciding_logits(model, batch))
    yield 0, logits, Dose()
    passes = resumed_passes(model, [interventions[i] for i in others], outputs, lambda: deciding_logits(model, batch))
    for i, (result, dose) in zip(others, passes, strict=True):
        yield i + 1, result, dose
    if ends:
        edits = [interventions[i] for i in ends]
        for i, (result, dose) in zip(
            ends, _head_passes(model, edits, batch, tracker, outputs[layer_count(model.config)]), strict=True
        ):
            yield i + 1, result, dose


def _head_passes(
    model: PreTrainedModel, edits: Sequence[Edit], batch: Batch, tracker: TokenTracker, output: Any
) -> Iterator[tuple[torch.Tensor, Dose]]:
    """Logits and dose under each edit of the last block's output."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    device = hidden.device
    rows, columns = torch.arange(len(hidden), device=device), deciding_columns(model, batch).to(device)
    own = hidden[rows, columns][:, None]
    width = int(model.config.vocab_size) if family_of(model.config.model_type).decoder else 1
    step = max(1, logit_bytes(device) // (4 * max(width, hidden.shape[-1]) * len(hidden)))
    for start in range(0, len(edits), step):
        vectors, doses = [], []
        for item in edits[start : start + step]:
            placed = item.to(device)
            pooling = resolve_pooling(item.pooling, model.config.model_type)
            tokens = tracker.where(item.positions, pooling).to(device)
            vectors.append(placed.apply(own, tokens[rows, columns][:, None])[0])
            doses.append(Dose(placed.changed(hidden, tokens).sum(dim=(1, 2)), tokens.sum(dim=1) * item.width, 1))
        logits = head_logits(model, torch.cat(vectors), output)
        yield from zip(logits.split(len(hidden)), doses, strict=True)
