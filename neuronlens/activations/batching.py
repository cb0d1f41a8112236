"""Batches: rows sorted by length, as many as fit a budget of tokens, padded no further than the longest of them."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from neuronlens.dataset import SPLITS
from neuronlens.errors import OutOfMemoryError

if TYPE_CHECKING:
    import torch

    from neuronlens.checkpoint import Checkpoint

Ints = npt.NDArray[np.int64]
T = TypeVar("T")

# What a batch costs beside its tokens, as a share of the budget. On a processor GPT-2 small takes as long as for 15 to 20 tokens more, and
# where edits are run the head reads its matrix once; the budget there is 1024.
_START = 32


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[Ints]:
    """Indices of the rows of each batch, shortest rows first: the batches that hold the fewest tokens, padding included, where starting one
    counts as a `_START`th of the budget.

    Few rows differ so much in length that full batches would be padded a good deal; many are packed nearly full.

    Args:
        lengths: [N] tokens of each row.
        budget: most tokens of a batch, padding included; a longer row stands alone.
    """
    own = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(own, kind="stable")
    start = budget // _START
    least = np.zeros(len(own) + 1, dtype=np.int64)  # of the tokens of the first n rows
    first = np.zeros(len(own) + 1, dtype=np.int64)  # row of the batch that ends there
    for end in range(1, len(own) + 1):
        longest = int(own[order[end - 1]])
        earliest = max(0, end - max(1, budget // max(1, longest)))
        tokens = least[earliest:end] + longest * np.arange(end - earliest, 0, -1) + start
        best = int(tokens.argmin())
        least[end], first[end] = tokens[best], earliest + best
    batches: list[Ints] = []
    end = len(own)
    while end:
        batches.append(order[first[end] : end])
        end = int(first[end])
    return batches[::-1]


def split_batches(lengths: Sequence[int], split: Sequence[str], budget: int) -> dict[str, list[Ints]]:
    """Batches of each split on its own, in the order fit, validation, test; splits without rows are left out.

    Whoever batches the rows of one split alone, in the order of the dataset, gets the same batches: same rows, same order, same padding,
    and therefore the same numbers to the bit.

    Args:
        lengths: [N] tokens of each row.
        split: [N] of each row.
        budget: see `token_budget_batches`.

    Returns:
        split -> batches of places in the dataset.
    """
    found = {}
    for name in SPLITS:
        places = np.array([i for i, own in enumerate(split) if own == name], dtype=np.int64)
        if len(places):
            found[name] = [places[rows] for rows in token_budget_batches([lengths[i] for i in places], budget)]
    return found


def placed(batches: Mapping[str, Sequence[Ints]]) -> list[tuple[str, int, Ints]]:
    """(split, place among the batches of the split, rows) of each batch that `split_batches` gives, in order."""
    return [(split, place, rows) for split, members in batches.items() for place, rows in enumerate(members)]


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

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the rows, each padded no further than its longest row."""

        def part(rows: slice) -> Batch:
            used = self.attention_mask[rows].bool().any(dim=0)
            tensors = (tensor[rows][:, used] for tensor in (self.input_ids, self.attention_mask, self.position_ids))
            return Batch(self.rows[rows], *tensors)

        middle = len(self) // 2
        return part(slice(None, middle)), part(slice(middle, None))


class Halving:
    """Runs batches, and cuts those in two by rows that do not fit into memory, down to single rows.

    What has not fitted once is not tried again: later batches of as many tokens are cut beforehand, so a budget that is too large costs a
    failure or two and not one a batch. Which rows are run together depends on the batches and on what failed, on nothing else.

    Attributes:
        count: how many batches were cut, before or after they failed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._tokens = math.inf  # the fewest of a batch that did not fit, padding included

    def run(self, batch: Batch, work: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        """(part, what `work` gives on it) of the parts of a batch, its rows in order: the batch itself unless it does not fit.

        Args:
            work: must leave nothing behind when it fails for lack of memory, since its rows are run again.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """

        def once(part: Batch) -> Iterator[T]:
            yield work(part)

        return self.stream(batch, once)

    def stream(self, batch: Batch, work: Callable[[Batch], Iterator[T]]) -> Iterator[tuple[Batch, T]]:
        """The same for work that gives several results of a part, one after the other.

        What a part gave before it failed is given once more by its halves.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            tokens = part.input_ids.numel()
            if tokens < self._tokens or len(part) == 1:
                try:
                    for result in work(part):
                        yield part, result
                except (RuntimeError, MemoryError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if len(part) == 1:
                        raise OutOfMemoryError(
                            f"a row of {tokens} tokens does not fit into memory; lower dataset.max_tokens, set checkpoint.dtype=bfloat16, "
                            "or use a device with more memory"
                        ) from error
                else:
                    continue
                # only here, behind the except clause, is the traceback gone that held the tensors of the failed call
                self._tokens = min(self._tokens, tokens)
                _release_memory()
            self.count += 1
            waiting += reversed(part.halves())


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def padding_of(checkpoint: Checkpoint) -> int:
    """The token that rows of a checkpoint are padded with. The head of a causal classifier looks for that of its config."""
    if checkpoint.kind == "classifier" and checkpoint.family.decoder:
        return int(checkpoint.config.pad_token_id)
    return pad_id_of(checkpoint.tokenizer)


def pad_id_of(tokenizer: object) -> int:
    """The tokenizer's padding token, or any other where it has none: padding is masked."""
    pad = getattr(tokenizer, "pad_token_id", None)
    eos = getattr(tokenizer, "eos_token_id", None)
    return next((int(token) for token in (pad, eos) if token is not None), 0)
