"""The suffix: run the stock model from a block onwards on hidden states that an unedited pass has left.

An edit at layer l changes nothing before l. The blocks up to there are stood in for by the hidden states they gave, and the
model's own forward does the rest, so masks, positions, rotary embeddings and sliding windows are the model's own in every family.
The edit's hooks are the same as in a full pass. An edit of a block's MLP leaves its attention as it is, and what its neurons were
before the edit, so both are stood in for as well where the family says how.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from neuronlens.activations.capture import attach, stand_in
from neuronlens.activations.hidden import blocks_before, passed_on, record_blocks, resume_after
from neuronlens.activations.tokens import TokenTracker
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import AnyEdit, Edit, Joint
from neuronlens.sites import Site, blocks_of, family_of, layer_count, resolve

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

T = TypeVar("T")


@dataclass(frozen=True)
class Inner:
    """What a block gave inside, unedited.

    Attributes:
        attended: [B, T, D] of its attention module.
        neurons: [B, T, M] of its MLP: the site `mlp_post`.
    """

    attended: torch.Tensor
    neurons: torch.Tensor


def starts_within(model: PreTrainedModel, site: Site) -> bool:
    """Whether an edit of a site leaves alone what `Inner` holds of its block, and the family says where that lies."""
    return site.component in ("mlp_post", "mlp_out") and family_of(model.config).attention is not None


def record_inner(model: PreTrainedModel, layer: int, output: Any, forward: Callable[[], object]) -> Inner:
    """Run one block alone and keep what it gives inside.

    Args:
        output: what `record_blocks` kept for `layer` blocks; anything for the first.
        forward: runs the model on the same batch.
    """
    _, blocks = blocks_of(model)
    where = family_of(model.config).attention
    assert where is not None
    kept: dict[str, torch.Tensor] = {}
    given_out: list[Any] = []

    def keep_attended(_: torch.nn.Module, __: tuple[Any, ...], given: Any) -> None:
        kept["attended"] = given[0]

    def keep_neurons(hidden: torch.Tensor) -> None:
        kept["neurons"] = hidden

    with contextlib.ExitStack() as stack:
        stack.enter_context(resume_after(model, layer, output))
        note = blocks[layer].register_forward_hook(lambda *given: given_out.append(given[-1]))
        stack.callback(note.remove)
        for block in blocks[layer + 1 :]:
            stack.enter_context(stand_in(block, passed_on(lambda: given_out[0])))
        attention = blocks[layer].get_submodule(where.module)
        stack.callback(attention.register_forward_hook(keep_attended).remove)
        stack.callback(attach(resolve(model, Site(layer, "mlp_post")), keep_neurons).remove)
        forward()
    return Inner(**kept)


@contextlib.contextmanager
def resume_within(model: PreTrainedModel, layer: int, inner: Inner) -> Iterator[None]:
    """Within the block, a block's attention and the upper half of its MLP compute nothing but give what they gave before."""
    family, block = family_of(model.config), blocks_of(model)[1][layer]
    where, projection = family.attention, family.mlp_down
    assert where is not None
    assert projection is not None
    mlp, down = block.get_submodule(where.mlp), block.get_submodule(projection)
    ends_with_it = projection.startswith(f"{where.mlp}.")
    with (
        stand_in(block.get_submodule(where.module), lambda *_, **__: (inner.attended, None)),
        stand_in(mlp, (lambda *_: down(inner.neurons)) if ends_with_it else (lambda *_: inner.neurons)),
    ):
        yield


@contextlib.contextmanager
def resume_before(model: PreTrainedModel, site: Site, output: Any, inner: Inner | None) -> Iterator[None]:
    """Within the block, the model computes what lies behind a site and nothing before it.

    Args:
        output: what `record_blocks` kept for the blocks before the site.
        inner: what `record_inner` kept of the site's block, where an edit `starts_within`.
    """
    with contextlib.ExitStack() as stack:
        if inner is not None:
            stack.enter_context(resume_within(model, site.layer, inner))
        stack.enter_context(resume_after(model, blocks_before(site), output))
        yield


def run_unedited(
    model: PreTrainedModel, interventions: Sequence[AnyEdit], forward: Callable[[], T]
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


def split_at_head(
    model: PreTrainedModel, interventions: Sequence[AnyEdit]
) -> tuple[dict[int, Edit], dict[int, AnyEdit]]:
    """The edits of what the last block gives and of nothing else, and all others, by their places."""
    last = layer_count(model.config)
    ends = {
        i: item
        for i, item in enumerate(interventions)
        if not isinstance(item, Joint) and blocks_before(item.site) == last
    }
    return ends, {i: item for i, item in enumerate(interventions) if i not in ends}


def resumed_passes(
    model: PreTrainedModel, interventions: Sequence[AnyEdit], outputs: Mapping[int, Any], forward: Callable[[], T]
) -> Iterator[tuple[T, Dose]]:
    """What a forward call gives under each intervention alone, resumed after what it leaves as it is.

    Args:
        outputs: what `run_unedited` kept of the same batch.

    Yields:
        The result and the dose of each edit, in their order; those of one site are best given side by side.
    """
    known: tuple[int, Inner] | None = None
    for item in interventions:
        output = outputs.get(blocks_before(item.site))
        layer, inner = item.site.layer, None
        if starts_within(model, item.site):
            if known is None or known[0] != layer:
                known = layer, record_inner(model, layer, output, forward)
            inner = known[1]
        with resume_before(model, item.site, output, inner), edit(model, item) as (dose,):
            result = forward()
        yield result, dose
