"""The head: what a model makes of single vectors behind its last block, and how to get at these.

There every token is treated by itself, and one token of a row decides. So the vectors of many rows, and of many edits of them, go through
the head together, which reads its large matrix once for all of them. The model's own code does it, on a batch of single tokens whose blocks
return the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.hidden import hidden_of, like, record_blocks, resume_after
from neuronlens.activations.readout import (
    decides_by_one_token,
    deciding_columns,
    has_vocabulary,
    inputs_of,
    logits_of_columns,
    only_tokens,
)
from neuronlens.sites import layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# For a large vocabulary logits are far more than the hidden states, and a processor takes several times as long over what its caches do
# not hold.
_LOGIT_BYTES: dict[str, int] = {"cpu": 8 << 20}
_LOGIT_BYTES_ELSEWHERE = 256 << 20

# Of the logits of single vectors at once. The more of them there are, the less it matters that the whole unembedding is read for them.
_TOGETHER_BYTES = 64 << 20


def logit_bytes(device: torch.device) -> int:
    """Bytes of logits to hold at once on a device, where all tokens of a text have some."""
    return _LOGIT_BYTES.get(device.type, _LOGIT_BYTES_ELSEWHERE)


def vectors_together(model: PreTrainedModel, tokens: Sequence[int] | None = None, width: int = 0) -> int:
    """How many single vectors go through the head together.

    Args:
        tokens: of a language model's vocabulary, the only ones whose logits are needed.
        width: numbers that a vector takes on the way, if more than the model's own width.
    """
    classes = int(model.config.vocab_size) if has_vocabulary(model) else 1
    largest = max(classes if tokens is None else len(tokens), width, int(model.config.hidden_size))
    return max(1, _TOGETHER_BYTES // (4 * largest))


def deciding_hidden(model: PreTrainedModel, batch: Batch) -> Any:
    """What the last block gives of the token that decides each row: [B, 1, D], in the block's own form (see `hidden_of`).

    Where a head looks at more than one token, what it has made of them: [B, 1, C] logits of the classes.
    """
    if not decides_by_one_token(model):
        logits: torch.Tensor = model(**inputs_of(model, batch)).logits
        return logits[:, None]
    return hidden_at(model, inputs_of(model, batch), deciding_columns(model, batch))


def hidden_at(model: PreTrainedModel, inputs: Mapping[str, Any], columns: torch.Tensor) -> Any:
    """What the last block gives at one column of each row: [B, 1, D], in the block's own form.

    A classifier's head, which is small, runs as it is; a language model's at one column, for one token of the vocabulary.

    Args:
        inputs: of the model's forward call.
        columns: [B].
    """

    def own(output: Any) -> Any:
        hidden = hidden_of(output)
        rows = torch.arange(len(hidden), device=hidden.device)
        return like(output, hidden[rows, columns.to(hidden.device)][:, None])

    count = layer_count(model.config)
    vocabulary = has_vocabulary(model)
    with record_blocks(model, [count], own) as kept, only_tokens(model, (0,) if vocabulary else None):
        model(**inputs, **(logits_of_columns(model, 1) if vocabulary else {}))
    return kept[count]


def single_tokens(count: int, device: torch.device) -> Batch:
    """Rows of one token each, whichever: for a model whose blocks are told what to return."""
    ids = torch.zeros(count, 1, dtype=torch.long, device=device)
    return Batch(np.arange(count), ids, torch.ones_like(ids), torch.zeros_like(ids))


def head_logits(model: PreTrainedModel, hidden: torch.Tensor, output: Any) -> torch.Tensor:
    """[N, V] float32 logits of single vectors behind the last block.

    Args:
        hidden: [N, 1, D], as of `deciding_hidden`.
        output: what that block returned of any batch, for its form.
    """
    if not decides_by_one_token(model):
        return hidden[:, 0].float()
    inputs = inputs_of(model, single_tokens(len(hidden), model.device))
    with resume_after(model, layer_count(model.config), like(output, hidden)):
        logits: torch.Tensor = model(**inputs).logits
    return (logits[:, -1] if has_vocabulary(model) else logits).float()
