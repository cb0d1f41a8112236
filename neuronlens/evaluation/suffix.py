"""The suffix: run the stock model from a block onwards on hidden states that an unedited pass has left.

An edit at layer l changes nothing before l. The blocks up to there are stood in for by the hidden states they gave, and the
model's own forward does the rest, so masks, positions, rotary embeddings and sliding windows are the model's own in every family.
The edit's hooks are the same as in a full pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from neuronlens.activations.hidden import blocks_before, record_blocks
from neuronlens.activations.tokens import TokenTracker
from neuronlens.interventions.edit import Dose, Edit, edit
from neuronlens.sites import blocks_of, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


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


def run_unedited(
    model: PreTrainedModel, interventions: Sequence[Edit], forward: Callable[[], T]
) -> tuple[T, TokenTracker, dict[int, Any]]:
    """A forward call that keeps what edits of the same batch can start from.

    Args:
        forward: runs the model on one batch.

    Returns:
        Its result, which tokens it looked at, and what `record_blocks` kept: the blocks before each edit run once for all of them.
    """
    with (
        TokenTracker(model) as tracker,
        record_blocks(model, [blocks_before(item.site) for item in interventions]) as kept,
    ):
        result = forward()
    return result, tracker, kept


def split_at_head(model: PreTrainedModel, interventions: Sequence[Edit]) -> tuple[list[int], list[int]]:
    """Places of the edits of what the last block gives, and of all others."""
    behind = [blocks_before(item.site) == layer_count(model.config) for item in interventions]
    return [i for i, last in enumerate(behind) if last], [i for i, last in enumerate(behind) if not last]


def resumed_passes(
    model: PreTrainedModel, interventions: Sequence[Edit], outputs: Mapping[int, Any], forward: Callable[[], T]
) -> Iterator[tuple[T, Dose]]:
    """What a forward call gives under each intervention alone, resumed after the blocks that it leaves as they are.

    Args:
        outputs: what `run_unedited` kept of the same batch.

    Yields:
        The result and the dose of each edit.
    """
    for item in interventions:
        count = blocks_before(item.site)
        with resume_after(model, count, outputs.get(count)), edit(model, item) as (dose,):
            result = forward()
        yield result, dose
