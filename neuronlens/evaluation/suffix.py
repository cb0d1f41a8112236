"""The suffix: run the stock model from a block onwards on hidden states that an unedited pass has left.

An edit at layer l changes nothing before l. The blocks up to there are stood in for by the hidden states they gave, and the
model's own forward does the rest, so masks, positions, rotary embeddings and sliding windows are the model's own in every family.
The edit's hooks are the same as in a full pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from neuronlens.interventions.edit import Dose, Edit, edit
from neuronlens.sites import Site, blocks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


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


@contextlib.contextmanager
def resume_after(model: PreTrainedModel, count: int, output: Any) -> Iterator[None]:
    """Within the block, the first `count` blocks compute nothing: the last of them returns `output`.

    Args:
        count: 0 changes nothing.
        output: what `record_blocks` kept for `count`, of the same batch.
    """
    _, blocks = blocks_of(model)

    def passed_on(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]

    def stood_in(*_: Any, **__: Any) -> Any:
        return output

    try:
        for index in range(count):
            # an instance attribute shadows the class's forward; __call__ and with it the block's hooks stay
            blocks[index].__dict__["forward"] = stood_in if index == count - 1 else passed_on
        yield
    finally:
        for index in range(count):
            blocks[index].__dict__.pop("forward", None)


def edited_passes(
    model: PreTrainedModel, interventions: Sequence[Edit], forward: Callable[[], T]
) -> Iterator[tuple[T, Dose]]:
    """What a forward call gives unedited, then under each intervention alone. The blocks before an edit run once for all of them.

    Args:
        forward: runs the model on one batch, the same at every call.

    Yields:
        The result and the dose of the edit (of the unedited call: nothing).
    """
    with record_blocks(model, [blocks_before(item.site) for item in interventions]) as outputs:
        result = forward()
    yield result, Dose()
    yield from resumed_passes(model, interventions, outputs, forward)


def resumed_passes(
    model: PreTrainedModel, interventions: Sequence[Edit], outputs: Mapping[int, Any], forward: Callable[[], T]
) -> Iterator[tuple[T, Dose]]:
    """What a forward call gives under each intervention alone, resumed after the blocks that it leaves as they are.

    Args:
        outputs: what `record_blocks` kept of an unedited call on the same batch.
    """
    for item in interventions:
        count = blocks_before(item.site)
        with resume_after(model, count, outputs.get(count)), edit(model, item) as (dose,):
            result = forward()
        yield result, dose
