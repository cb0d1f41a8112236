"""Several edits of one site in one call: the rows are repeated, and each repetition is edited in its own way.

An accelerator needs many tokens at a time to be busy. A processor is busy with few, and more of them leave its caches, so there it does not
pay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.hidden import hidden_of, like
from neuronlens.evaluation.suffix import Inner, resume_before
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import Edit
from neuronlens.sites import Site
from neuronlens.values import Pooling, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 16_384  # of a call, on an accelerator


def edits_together(device: torch.device, tokens: int) -> int:
    """How many edits of a batch to run in one call.

    Args:
        tokens: of the batch, padding included.
    """
    return 1 if device.type == "cpu" else max(1, _TOKENS // tokens)


@dataclass(frozen=True)
class Stacked:
    """Edits of one site, each of its own share of the rows. What `changed` says of a token is how many of its neurons were.

    Attributes:
        items: which; of one site, positions and pooling.
    """

    items: tuple[Edit, ...]

    @property
    def site(self) -> Site:
        """Where."""
        return self.items[0].site

    @property
    def positions(self) -> Positions:
        """Which tokens."""
        return self.items[0].positions

    @property
    def pooling(self) -> Pooling:
        """What `pooled` means."""
        return self.items[0].pooling

    @property
    def width(self) -> int:
        """Counts are kept by the token."""
        return 1

    def to(self, device: torch.device | str) -> Stacked:
        """The same edits with their tensors on a device."""
        return Stacked(tuple(item.to(device) for item in self.items))

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New activations [E B, T, D], and [E B, T, 1] how many of each token's neurons were changed."""
        count = len(self.items)
        parts = [
            item.apply(*given)
            for item, *given in zip(self.items, hidden.chunk(count), tokens.chunk(count), strict=True)
        ]
        return torch.cat([edited for edited, _ in parts]), torch.cat([_counts(inside) for _, inside in parts])

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[E B, T, 1] what `apply` would count."""
        count = len(self.items)
        given = zip(self.items, hidden.chunk(count), tokens.chunk(count), strict=True)
        return torch.cat([_counts(item.changed(own, where)) for item, own, where in given])

    @property
    def extent(self) -> Hashable:
        """Of all of them, in order."""
        return tuple(item.extent for item in self.items)

    def idle(self) -> Stacked:
        """The same with edits that never change anything."""
        return Stacked(tuple(item.idle() for item in self.items))


def _counts(inside: torch.Tensor) -> torch.Tensor:
    return inside.sum(dim=-1, keepdim=True)


def stacked_passes(
    model: PreTrainedModel,
    edits: Sequence[Edit],
    together: int,
    batch: Batch,
    output: Any,
    inner: Inner | None,
    forward: Callable[[Batch], torch.Tensor],
) -> Iterator[tuple[torch.Tensor, Dose]]:
    """What a forward call gives under each of some edits of one site, in their order.

    Args:
        together: how many of them share a call.
        output, inner: what an unedited pass left of the batch (see `neuronlens.evaluation.suffix.resume_before`).
        forward: runs the model on a batch.
    """
    for _, alike in groupby(edits, key=lambda item: (item.positions, item.pooling)):
        own = list(alike)
        for start in range(0, len(own), together):
            stack = Stacked(tuple(own[start : start + together]))
            count = len(stack.items)
            with (
                resume_before(model, stack.site, _repeated(output, count), _inner(inner, count)),
                edit(model, stack) as (dose,),
            ):
                result = forward(_batch(batch, count))
            parts = zip(
                stack.items, *(part.chunk(count) for part in (result, dose.changed, dose.looked_at)), strict=True
            )
            for item, found, changed, looked_at in parts:
                yield found, Dose(changed, looked_at * item.width, 1)


def _batch(batch: Batch, count: int) -> Batch:
    tensors = (batch.input_ids, batch.attention_mask, batch.position_ids)
    return Batch(batch.rows, *(tensor.repeat(count, 1) for tensor in tensors))


def _repeated(output: Any, count: int) -> Any:
    return None if output is None else like(output, hidden_of(output).repeat(count, 1, 1))


def _inner(inner: Inner | None, count: int) -> Inner | None:
    if inner is None:
        return None
    return Inner(inner.attended.repeat(count, 1, 1), inner.neurons.repeat(count, 1, 1))
