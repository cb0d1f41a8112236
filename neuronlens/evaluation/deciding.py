"""What decides the rows of a batch, unedited and under many edits, by the shortest exact way.

Behind the last attention a model treats every token by itself, and only one token of a row decides. So an edit of what the last block
gives, or of its MLP's neurons, needs that token alone, and all such edits of a batch go through the rest of the model together
(`neuronlens.evaluation.head`). Edits elsewhere run the blocks behind them (`neuronlens.evaluation.suffix`), and of the last block what
one token needs (`neuronlens.evaluation.last_block`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.hidden import blocks_before, hidden_of, record_blocks
from neuronlens.activations.readout import deciding_columns, deciding_logits, only_tokens
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.evaluation.head import head_logits
from neuronlens.evaluation.last_block import one_token_of_last_block
from neuronlens.evaluation.shared_prompt import SharedPrompt
from neuronlens.evaluation.stacked import edits_together, stacked_passes
from neuronlens.evaluation.suffix import Inner, record_inner, run_unedited
from neuronlens.interventions.edit import Dose, Edit
from neuronlens.sites import family_of, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of logits at once. The more rows there are, the less it matters that the whole unembedding is read for them.
_HEAD_BYTES = 64 << 20


def deciding_passes(
    model: PreTrainedModel,
    interventions: Sequence[Edit],
    batch: Batch,
    *,
    tokens: Sequence[int] | None = None,
    shared: SharedPrompt | None = None,
) -> Iterator[tuple[int, torch.Tensor, Dose]]:
    """Deciding logits of a batch, unedited (index 0) and under each intervention (1 to M), in no particular order.

    Args:
        tokens: of a language model's vocabulary, the only ones whose logits are needed.
        shared: what all rows begin with, under the same interventions.

    Yields:
        Index, [B, V] float32 logits ([B, len(tokens)] with `tokens`), and the edit's dose.
    """
    plain, tracker, outputs = run_unedited(model, interventions, lambda: deciding_logits(model, batch, tokens))
    yield 0, plain, Dose()
    for i, logits, dose in edited_passes(model, interventions, batch, outputs, tracker, tokens=tokens, shared=shared):
        yield i + 1, logits, dose


def edited_passes(
    model: PreTrainedModel,
    interventions: Sequence[Edit],
    batch: Batch,
    outputs: Mapping[int, Any],
    tracker: TokenTracker,
    *,
    tokens: Sequence[int] | None = None,
    shared: SharedPrompt | None = None,
) -> Iterator[tuple[int, torch.Tensor, Dose]]:
    """Deciding logits of a batch under each intervention, from what an unedited pass has left.

    Args:
        outputs, tracker: as of `run_unedited`.
        tokens, shared: as of `deciding_passes`.

    Yields:
        Place of the intervention, logits, dose.
    """
    last = layer_count(model.config) - 1
    columns = deciding_columns(model, batch)
    together = edits_together(model.device, batch.input_ids.numel())

    def whole() -> torch.Tensor:
        return deciding_logits(model, batch, tokens)

    def one_token(given: Batch) -> torch.Tensor:
        with one_token_of_last_block(model, deciding_columns(model, given)):
            return deciding_logits(model, given, tokens)

    form: list[Any] = []  # of what a block returns

    def last_vectors(given: Batch) -> torch.Tensor:
        """[B, 1, D] what the last block gives of the deciding tokens."""
        with one_token_of_last_block(model, deciding_columns(model, given)), record_blocks(model, [last + 1]) as kept:
            deciding_logits(model, given, (0,))
        form[:] = [kept[last + 1]]
        return hidden_of(form[0])[:, :1]

    by_site = sorted(range(len(interventions)), key=lambda i: interventions[i].site)
    for site, places in groupby(by_site, key=lambda i: interventions[i].site):
        own = list(places)
        edits = [interventions[i] for i in own]
        output = outputs.get(blocks_before(site))
        inner = record_inner(model, site.layer, output, whole) if site.component == "mlp_post" else None
        if site.layer < last and shared is not None:
            passes = shared.passes(dict(zip(own, edits, strict=True)), batch, output, inner, tokens)
        elif site.layer < last and family_of(model.config.model_type).decoder:
            ends = stacked_passes(model, edits, together, batch, output, inner, last_vectors)
            passes = _through_head(model, ends, form, len(batch), tokens)
        elif site.layer < last:
            passes = stacked_passes(model, edits, together, batch, output, inner, one_token)
        elif output is None:  # neurons of the only block: nothing stands before them
            passes = stacked_passes(
                model, edits, together, batch, output, inner, lambda given: deciding_logits(model, given, tokens)
            )
        else:
            passes = _single_token_passes(model, edits, columns, tracker, output, inner, tokens)
        for i, (logits, dose) in zip(own, passes, strict=True):
            yield i, logits, dose


def _single_token_passes(
    model: PreTrainedModel,
    edits: Sequence[Edit],
    columns: torch.Tensor,
    tracker: TokenTracker,
    output: Any,
    inner: Inner | None,
    tokens: Sequence[int] | None,
) -> Iterator[tuple[torch.Tensor, Dose]]:
    """Logits and dose under each edit of what the last block gives, or of its neurons.

    Args:
        columns: [B] the deciding token.
        output: of the block before the edit.
        inner: of the last block, where its neurons are edited.
    """
    before = hidden_of(output)
    hidden = before if inner is None else inner.neurons
    rows, columns = torch.arange(len(hidden), device=hidden.device), columns.to(hidden.device)
    own = hidden[rows, columns][:, None]
    step = _edits_at_once(model, len(hidden), hidden.shape[-1], tokens)
    known: dict[Hashable, Dose] = {}
    for start in range(0, len(edits), step):
        vectors, doses = [], []
        for item in edits[start : start + step]:
            placed = item.to(hidden.device)
            pooling = resolve_pooling(item.pooling, model.config.model_type)
            looked_at = tracker.where(item.positions, pooling).to(hidden.device)
            vectors.append(placed.apply(own, looked_at[rows, columns][:, None])[0])
            extent = item.extent
            if extent not in known:  # edits that differ in the operator alone change the same activations
                changed = placed.changed(hidden, looked_at).sum(dim=(1, 2), dtype=torch.int32)
                known[extent] = Dose(changed, looked_at.sum(dim=1) * item.width, 1)
            doses.append(known[extent])
        edited = torch.cat(vectors)
        with only_tokens(model, tokens):
            if inner is None:
                logits = head_logits(model, edited, output)
            else:
                residual, attended = (
                    part[rows, columns][:, None].repeat(len(doses), 1, 1) for part in (before, inner.attended)
                )
                logits = head_logits(model, residual, output, Inner(attended, edited))
        yield from zip(logits.split(len(hidden)), doses, strict=True)


def _through_head(
    model: PreTrainedModel,
    ends: Iterator[tuple[torch.Tensor, Dose]],
    form: Sequence[Any],
    rows: int,
    tokens: Sequence[int] | None,
) -> Iterator[tuple[torch.Tensor, Dose]]:
    """Logits instead of what the last block gives [B, 1, D], by one call of the head for many edits: it reads its whole matrix in each."""
    step = _edits_at_once(model, rows, int(model.config.hidden_size), tokens)
    while some := list(islice(ends, step)):
        vectors = torch.cat([end for end, _ in some])
        with only_tokens(model, tokens):
            logits = head_logits(model, vectors, form[0])
        yield from zip(logits.split(rows), (dose for _, dose in some), strict=True)


def _edits_at_once(model: PreTrainedModel, rows: int, width: int, tokens: Sequence[int] | None) -> int:
    """How many edits of so many rows go through the head together."""
    classes = int(model.config.vocab_size) if family_of(model.config.model_type).decoder else 1
    return max(1, _HEAD_BYTES // (4 * max(classes if tokens is None else len(tokens), width) * rows))
