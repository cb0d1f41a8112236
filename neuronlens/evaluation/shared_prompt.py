"""A prompt that all rows begin with, such as the examples of a few-shot prompt: run once for each edit, not once for each row.

In a causal model what stands first depends on nothing behind it. So the edited model's keys and values of the shared tokens are the same
for every row, and a row only runs its own tokens behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.head import hidden_at
from neuronlens.activations.hidden import blocks_before, hidden_of, like, record_blocks
from neuronlens.activations.last_block import can_follow_one_token, one_token_of_last_block
from neuronlens.activations.readout import deciding_columns, has_vocabulary, logits_of_columns
from neuronlens.activations.tokens import TokenTracker
from neuronlens.evaluation.suffix import Inner, record_inner, resume_before, starts_within
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import Edit
from neuronlens.sites import family_of

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

KeysValues = tuple[torch.Tensor, torch.Tensor]

_LEAST_TOKENS = 16
_LEAST_SHARE = 0.1  # of a row; below it, joining keys and values costs what is saved


def can_share(model: PreTrainedModel) -> bool:
    """Whether what rows begin with can be run once for all: of causal language models whose last block can follow one token."""
    return family_of(model.config).decoder and has_vocabulary(model) and can_follow_one_token(model)


def shared_tokens(encoded: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all rows begin with, so that each row has one of its own left; none where they are too few to gain by."""
    if len(encoded) < 2:
        return []
    ordered = sorted(map(list, encoded))
    first, last = ordered[0], ordered[-1]  # all others lie between them in the order of lists
    room = min(map(len, encoded)) - 1
    count = next((i for i, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), room)
    count = min(count, room)
    worth = count >= max(_LEAST_TOKENS, _LEAST_SHARE * sum(map(len, encoded)) / len(encoded))
    return list(first[:count]) if worth else []


class SharedPrompt:
    """The shared tokens of a language model's rows under each of many edits, each run at its first use.

    Attributes:
        length: P, how many tokens are shared.
    """

    def __init__(self, model: PreTrainedModel, tokens: Sequence[int], interventions: Sequence[Edit], room: int) -> None:
        """Run the unedited model on the shared tokens.

        Args:
            tokens: the P shared tokens.
            interventions: all that rows will be run under.
            room: bytes of keys and values to hold; those of further edits are run anew for every batch.
        """
        self.length = len(tokens)
        self._model, self._room = model, room
        ids = torch.tensor([list(tokens)], device=model.device)
        self._inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(self.length, device=model.device)[None],
        }
        self._held: dict[int, tuple[list[KeysValues], Dose]] = {}
        self._inner: tuple[int, Inner] | None = None
        with record_blocks(model, [blocks_before(item.site) for item in interventions]) as self._outputs:
            self._unedited = self._run()

    @classmethod
    def of_rows(
        cls, model: PreTrainedModel, encoded: Sequence[Sequence[int]], interventions: Sequence[Edit], room: int
    ) -> SharedPrompt | None:
        """What rows share, where a model is causal and enough is shared."""
        tokens = shared_tokens(encoded) if can_share(model) else []
        return cls(model, tokens, interventions, room) if tokens else None

    def passes(
        self,
        edits: Mapping[int, Edit],
        batch: Batch,
        output: Any,
        inner: Inner | None,
    ) -> Iterator[tuple[torch.Tensor, Dose]]:
        """What the last block gives of the deciding tokens, [B, 1, D], under each of some edits of one site before that block.

        Args:
            edits: by their place among all interventions.
            batch: whole rows, padded on the right.
            output, inner: what the blocks before the site and its block gave inside, unedited, on whole rows.

        Yields:
            The vectors and the dose.
        """
        own = slice(self.length, None)
        columns = deciding_columns(self._model, batch) - self.length
        inputs = {
            "input_ids": batch.input_ids[:, own],
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids[:, own],
        }
        behind = None if output is None else like(output, hidden_of(output)[:, own])
        inside = None if inner is None else Inner(inner.attended[:, own], inner.neurons[:, own].contiguous())
        for place, item in edits.items():
            before, prompt = self._edited(place, item)
            # from within a block, its attention is stood in for as well
            idle = blocks_before(item.site) if inner is None else item.site.layer + 1
            cache = _cache(before, len(batch.input_ids), idle)
            with (
                resume_before(self._model, item.site, behind, inside),
                one_token_of_last_block(self._model, columns),
                edit(self._model, item) as (dose,),
            ):
                given = {**inputs, "past_key_values": cache, "use_cache": True}
                deciding = hidden_of(hidden_at(self._model, given, columns))
            yield deciding, Dose(dose.changed + prompt.changed, dose.looked_at + prompt.looked_at, 1)

    def _edited(self, place: int, item: Edit) -> tuple[list[KeysValues], Dose]:
        """Keys and values of all blocks under an edit, and its dose on the shared tokens."""
        if place in self._held:
            return self._held[place]
        count = blocks_before(item.site)
        output = self._outputs.get(count)
        layer, inner = item.site.layer, None
        if starts_within(self._model, item.site):
            if self._inner is None or self._inner[0] != layer:
                self._inner = layer, record_inner(self._model, layer, output, self._run)
            inner = self._inner[1]
        with (
            resume_before(self._model, item.site, output, inner),
            edit(self._model, item, tracker=TokenTracker(self._model, beginning=True)) as (dose,),
        ):
            found = self._run()
        computed = found[item.site.layer + 1 :]
        layers = [*self._unedited[: item.site.layer + 1], *computed]
        size = sum(keys.nbytes + values.nbytes for keys, values in computed)
        if size <= self._room:
            self._room -= size
            self._held[place] = layers, dose
        return layers, dose

    def _run(self) -> list[KeysValues]:
        """Keys and values [1, H, P, E] of every block; of blocks that are stood in for, empty ones."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()  # keeps all tokens in every block; windows are the masks' business
        self._model(**self._inputs, past_key_values=cache, use_cache=True, **logits_of_columns(self._model, 1))
        return [(layer.keys, layer.values) for layer in cache.layers]


def _cache(layers: Sequence[KeysValues], rows: int, count: int) -> Cache:
    """A fresh cache for a batch of rows; the first `count` blocks do not look into theirs."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        size = -1 if index < count else rows
        cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
    return cache
