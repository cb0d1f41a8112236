"""Hidden states: what the blocks of a model give on the way, for whoever goes on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.sites import Site, blocks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def blocks_before(site: Site) -> int:
    """How many blocks an edit of a site leaves as they are."""
    return site.layer + 1 if site.component == "resid_post" else site.layer


@contextlib.contextmanager
def record_blocks(model: PreTrainedModel, counts: Sequence[int]) -> Iterator[dict[int, Any]]:
    """Keep what the first n blocks give, for each n > 0 of `counts`, of the latest forward call.

    Yields:
        n -> the output of block n - 1, as the block returned it.
    """
    _, blocks = blocks_of(model)
    outputs: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        for count in sorted(set(counts) - {0}):

            def keep(_: torch.nn.Module, __: tuple[Any, ...], output: Any, count: int = count) -> None:
                outputs[count] = output

            stack.callback(blocks[count - 1].register_forward_hook(keep).remove)
        yield outputs
