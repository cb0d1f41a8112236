"""What decides the rows of a batch, unedited and under many edits, by the shortest exact way.

Behind the last attention a model treats every token by itself, and only one token of a row decides. So an edit of what the last block
gives, or of its MLP's neurons, needs that token alone. Edits elsewhere run the blocks behind them (`neuronlens.evaluation.suffix`), and of
the last block what one token needs (`neuronlens.activations.last_block`). Whichever way, the vectors that the last block gives of the
deciding tokens go through the head together (`neuronlens.activations.head`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.head import deciding_hidden, head_logits, single_tokens, vectors_together
from neuronlens.activations.hidden import blocks_before, hidden_of, like, resume_after
from neuronlens.activations.last_block import can_follow_one_token, one_token_of_last_block
from neuronlens.activations.readout import decides_by_one_token, deciding_columns, only_tokens
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.evaluation.shared_prompt import SharedPrompt
from neuronlens.evaluation.stacked import edits_together, stacked_passes
from neuronlens.evaluation.suffix import Inner, record_inner, resume_before, resume_within, run_unedited, starts_within
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import AnyEdit, Edit, Joint, sites_of
from neuronlens.sites import Site, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Unedited:
    """What a pass of the unedited model over a batch has left.

    Attributes:
        deciding: as of `neuronlens.activations.head.deciding_hidden`.
        outputs, tracker: as of `neuronlens.evaluation.suffix.run_unedited`.
    """

    deciding: Any
    outputs: Mapping[int, Any]
    tracker: TokenTracker

    @classmethod
    def of(cls, model: PreTrainedModel, interventions: Sequence[AnyEdit], batch: Batch) -> Unedited:
        """Run that pass."""
        deciding, tracker, outputs = run_unedited(model, interventions, lambda: deciding_hidden(model, batch))
        return cls(deciding, outputs, tracker)


def deciding_passes(
    model: PreTrainedModel,
    interventions: Sequence[AnyEdit],
    batch: Batch,
    unedited: Unedited | None = None,
    *,
    tokens: Sequence[int] | None = None,
    shared: SharedPrompt | None = None,
) -> Iterator[tuple[int, torch.Tensor, Dose]]:
    """Deciding logits of a batch, unedited (index 0) and under each intervention (1 to M), in no particular order.

    Args:
        unedited: what the unedited model has left of the batch; run here unless given.
        tokens: of a language model's vocabulary, the only ones whose logits are needed.
        shared: what all rows begin with, under the same interventions. Joint ones make no use of it.

    Yields:
        Index, [B, V] float32 logits ([B, len(tokens)] with `tokens`), and the edit's dose.
    """
    unedited = unedited or Unedited.of(model, interventions, batch)
    plain = (0, hidden_of(unedited.deciding), Dose())
    ends = chain([plain], _edited(model, interventions, batch, unedited, shared))
    step = max(1, vectors_together(model, tokens) // len(batch))
    while some := list(islice(ends, step)):
        vectors = torch.cat([hidden for _, hidden, _ in some])
        with only_tokens(model, tokens):
            logits = head_logits(model, vectors, unedited.deciding)
        for (index, _, dose), own in zip(some, logits.split(len(batch)), strict=True):
            yield index, own, dose


def _edited(
    model: PreTrainedModel,
    interventions: Sequence[AnyEdit],
    batch: Batch,
    unedited: Unedited,
    shared: SharedPrompt | None,
) -> Iterator[tuple[int, torch.Tensor, Dose]]:
    """What the last block gives of the deciding tokens [B, 1, D] under each intervention (1 to M), site by site, the joint ones last."""
    last = layer_count(model.config) - 1
    together = edits_together(model.device, batch.input_ids.numel())
    one_decides = decides_by_one_token(model)

    def whole(given: Batch = batch) -> torch.Tensor:
        return hidden_of(deciding_hidden(model, given))

    def one_token(given: Batch) -> torch.Tensor:
        if not can_follow_one_token(model):
            return whole(given)
        with one_token_of_last_block(model, deciding_columns(model, given)):
            return whole(given)

    alone = {i: item for i, item in enumerate(interventions) if not isinstance(item, Joint)}
    for site, places in groupby(sorted(alone, key=lambda i: alone[i].site), key=lambda i: alone[i].site):
        own = list(places)
        edits = [alone[i] for i in own]
        output = unedited.outputs.get(blocks_before(site))
        inner = record_inner(model, site.layer, output, whole) if starts_within(model, site) else None
        if site.layer < last and shared is not None:
            passes = shared.passes(dict(zip(own, edits, strict=True)), batch, output, inner)
        elif not one_decides or output is None or not _ends_with(site, last, inner):  # no output: the only block
            forward = one_token if site.layer < last else whole
            passes = stacked_passes(model, edits, together, batch, output, inner, forward)
        else:
            columns = deciding_columns(model, batch)
            passes = _single_tokens(model, edits, columns, unedited.tracker, output, inner)
        for i, (hidden, dose) in zip(own, passes, strict=True):
            yield i + 1, hidden, dose
    joint = {i: item for i, item in enumerate(interventions) if isinstance(item, Joint)}
    for site, places in groupby(sorted(joint, key=lambda i: joint[i].site), key=lambda i: joint[i].site):
        output = unedited.outputs.get(blocks_before(site))
        inner = record_inner(model, site.layer, output, whole) if starts_within(model, site) else None
        for i in places:
            # where the last block is edited as well, the dose counts all its tokens
            forward = one_token if max(sites_of(joint[i])).layer < last else whole
            with resume_before(model, site, output, inner), edit(model, joint[i]) as (dose,):
                hidden = forward(batch)
            yield i + 1, hidden, dose


def _ends_with(site: Site, last: int, inner: Inner | None) -> bool:
    """Whether behind a site every token is treated by itself, and what stands before it is at hand."""
    return site.layer == last and (
        site.component == "resid_post" or (site.component == "mlp_post" and inner is not None)
    )


def _single_tokens(
    model: PreTrainedModel,
    edits: Sequence[Edit],
    columns: torch.Tensor,
    tracker: TokenTracker,
    output: Any,
    inner: Inner | None,
) -> Iterator[tuple[torch.Tensor, Dose]]:
    """The vectors and the dose under each edit of what the last block gives, or of its neurons.

    Args:
        columns: [B] the deciding token.
        output: of the block before the edit.
        inner: of the last block, where its neurons are edited.
    """
    before = hidden_of(output)
    hidden = before if inner is None else inner.neurons
    rows, columns = torch.arange(len(hidden), device=hidden.device), columns.to(hidden.device)
    own = hidden[rows, columns][:, None]
    step = max(1, vectors_together(model, (0,), hidden.shape[-1]) // len(hidden))
    known: dict[Hashable, Dose] = {}
    for start in range(0, len(edits), step):
        vectors, doses = [], []
        for item in edits[start : start + step]:
            placed = item.to(hidden.device)
            pooling = resolve_pooling(item.pooling, model.config)
            looked_at = tracker.where(item.positions, pooling).to(hidden.device)
            vectors.append(placed.apply(own, looked_at[rows, columns][:, None])[0])
            extent = item.extent
            if extent not in known:  # edits that differ in the operator alone change the same activations
                changed = placed.changed(hidden, looked_at).sum(dim=(1, 2), dtype=torch.int32)
                known[extent] = Dose(changed, looked_at.sum(dim=1) * item.width, 1)
            doses.append(known[extent])
        if inner is not None:
            residual, attended = (
                part[rows, columns][:, None].repeat(len(doses), 1, 1) for part in (before, inner.attended)
            )
            vectors = list(
                _last_block(model, like(output, residual), Inner(attended, torch.cat(vectors))).split(len(hidden))
            )
        yield from zip(vectors, doses, strict=True)


def _last_block(model: PreTrainedModel, output: Any, inner: Inner) -> torch.Tensor:
    """[N, 1, D] what the last block gives of single tokens, from what stands before it and inside it."""
    last = layer_count(model.config) - 1
    with resume_after(model, last, output), resume_within(model, last, inner):
        return hidden_of(deciding_hidden(model, single_tokens(len(inner.neurons), model.device)))
