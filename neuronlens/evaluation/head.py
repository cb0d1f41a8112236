"""The head: what a model makes of single vectors behind its last attention.

There every token is treated by itself, so any of them can be followed alone, and many edits of them together. The model's own code does it,
on a batch of single tokens whose blocks return the vectors.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.evaluation.suffix import Inner, resume_after, resume_within
from neuronlens.sites import family_of, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# For a large vocabulary logits are far more than the hidden states, and a processor takes several times as long over what its caches do
# not hold.
_LOGIT_BYTES: dict[str, int] = {"cpu": 8 << 20}
_LOGIT_BYTES_ELSEWHERE = 256 << 20


def logit_bytes(device: torch.device) -> int:
    """Bytes of logits to hold at once on a device."""
    return _LOGIT_BYTES.get(device.type, _LOGIT_BYTES_ELSEWHERE)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor, output: Any, inner: Inner | None = None) -> torch.Tensor:
    """[N, V] float32 logits of single vectors behind the last block, or, inside it, behind its MLP's neurons.

    Args:
        hidden: [N, 1, D] what the last block gave; with `inner`, what the block before it gave.
        output: what that block returned, for its form.
        inner: [N, 1, ...] what the last block's attention and its neurons gave.
    """
    ones = torch.ones(len(hidden), 1, dtype=torch.long, device=model.device)
    given = (hidden, *output[1:]) if isinstance(output, tuple) else hidden
    inputs: dict[str, Any] = {"input_ids": torch.zeros_like(ones), "attention_mask": ones}
    decoder = family_of(model.config.model_type).decoder
    if decoder:
        inputs |= {"position_ids": torch.zeros_like(ones), "use_cache": False}
    last = layer_count(model.config) - 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(resume_after(model, last if inner else last + 1, given))
        if inner:
            stack.enter_context(resume_within(model, last, inner))
        logits: torch.Tensor = model(**inputs).logits
    return (logits[:, -1] if decoder else logits).float()
