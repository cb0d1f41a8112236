"""Batches: rows sorted by length, as many as fit a budget of tokens, padded no further than the longest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[Ints]:
    """Indices of the rows of each batch, shortest rows first.

    Args:
        lengths: [N] tokens of each row.
        budget: most tokens of a batch, padding included; a longer row stands alone.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[Ints] = []
    start = 0
    for end in range(1, len(order) + 1):
        # rows come sorted, so the next row's length is what the whole batch would be padded to
        if end == len(order) or lengths[int(order[end])] * (end + 1 - start) > budget:
            batches.append(order[start:end])
            start = end
    return batches


@dataclass(frozen=True)
class Batch:
    """Padded rows on the model's device.

    Attributes:
        rows: [B] index of each row in what was batched.
        input_ids, attention_mask, position_ids: [B, T]. Positions count real tokens only, so padding on either side changes nothing.
    """

    rows: Ints
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor


def collate(
    encoded: Sequence[Sequence[int]],
    rows: Ints,
    *,
    pad_id: int,
    device: str | torch.device,
    side: Literal["left", "right"] = "right",
) -> Batch:
    """Pad rows to the longest of them.

    Args:
        encoded: token ids of all rows.
        rows: [B] which of them.
        pad_id: any id; padding is masked.
        side: `left` is what `generate` needs; the two are otherwise equal.
    """
    import torch

    width = max(len(encoded[int(row)]) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens = encoded[int(row)]
        real = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[i, real], mask[i, real] = tokens, 1
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return Batch(rows, *(torch.from_numpy(array).to(device) for array in (ids, mask, positions)))


def iterate(
    encoded: Sequence[Sequence[int]], batches: Sequence[Ints], *, pad_id: int, device: str | torch.device
) -> Iterator[Batch]:
    """The batches one after the other."""
    return (collate(encoded, rows, pad_id=pad_id, device=device) for rows in batches)


def pad_id_of(tokenizer: object) -> int:
    """The tokenizer's padding token, or any other where it has none: padding is masked."""
    pad = getattr(tokenizer, "pad_token_id", None)
    eos = getattr(tokenizer, "eos_token_id", None)
    return next((int(token) for token in (pad, eos) if token is not None), 0)
