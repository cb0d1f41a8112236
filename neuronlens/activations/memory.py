"""Memory: how much there is, and how many tokens of a batch fit into it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuronlens.sites import Site, site_width
from neuronlens.values import BatchTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_TOKENS = 1024
MOST_TOKENS = 32_768
_SHARE = 4  # of an accelerator's memory beside the weights, a quarter is for a batch
_CGROUP = Path("/sys/fs/cgroup")


def batch_budget(batch_tokens: BatchTokens, model: PreTrainedModel) -> int:
    """Tokens of a batch, padding included: the number itself, or for `auto` what suits the device.

    On a CPU `CPU_TOKENS`, found by measuring: hidden states of that many tokens stay in its caches, and sorted rows are hardly padded. On a
    CUDA card the largest power of two, up to `MOST_TOKENS`, whose activations take a quarter of what the weights leave of the card, at
    8 vectors of the model's width and 4 of its MLP's a token. Not what is free at the moment: equal batches are what makes the numbers of
    one run those of the next, and a batch that does not fit is cut (`neuronlens.activations.batching.Halving`).
    """
    if batch_tokens != "auto":
        return batch_tokens
    if model.device.type != "cuda":
        return CPU_TOKENS
    import torch

    weights = sum(weight.nbytes for weight in model.parameters() if weight.device == model.device)
    return cuda_tokens(
        int(torch.cuda.get_device_properties(model.device).total_memory) - weights,
        model.dtype.itemsize * (8 * int(model.config.hidden_size) + 4 * site_width(model.config, Site(0, "mlp_post"))),
    )


def cuda_tokens(left: int, token_bytes: int) -> int:
    """The formula of `batch_budget`.

    Args:
        left: bytes of the card that hold no weights.
        token_bytes: activations of one token.
    """
    fitting = max(1, left // _SHARE // token_bytes)
    return min(MOST_TOKENS, 1 << (fitting.bit_length() - 1))


def available_memory() -> int:
    """Bytes of main memory that can be had now without swapping, within the limit of a container; 0 where the system does not say."""
    try:
        import psutil
    except ImportError:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            free = 0
    else:
        free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return max(0, int(free))
