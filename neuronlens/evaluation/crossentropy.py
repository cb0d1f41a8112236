"""Cross-entropy of tokens without their logits: a block of the vocabulary at a time, for all tokens and edits of it.

    loss = log sum_v exp(z_v - z_own), z_own the logit of the token that did follow.

The logits of a block stay in a processor's cache until their exponentials are summed. Exponents are taken about the own logit, which bounds
none of them from above but is wrong by no more than the loss; where that overflows, at 88 nats, the token is done again the long way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from neuronlens.activations.head import logit_bytes
from neuronlens.evaluation.columns import Block, Update
from neuronlens.evaluation.parents import depth_first
from neuronlens.evaluation.unembedding import Unembedding


@dataclass(frozen=True)
class Change:
    """Tokens that an edit changes.

    Attributes:
        places: [R] which of the tokens.
        normed: [R, D] their vectors under the edit, as they enter the unembedding.
        update: how their logits follow from others, if they do.
        parent: from whose they follow: another change, of the same tokens; None where it is the unedited ones.
    """

    places: torch.Tensor
    normed: torch.Tensor
    update: Update | None = None
    parent: int | None = None


@dataclass
class _Sums:
    """Of some tokens, over the blocks of the vocabulary so far.

    Attributes:
        normed: [R, D].
        tokens: [R] which follow.
        about: [R, 1] nearly their logits.
        exponentials: [R] float64 sum of exp(logit - about).
        own: [R] their logits, less `about`.
    """

    normed: torch.Tensor
    tokens: torch.Tensor
    about: torch.Tensor
    exponentials: torch.Tensor = field(init=False)
    own: torch.Tensor = field(init=False)

    @classmethod
    def over(cls, unembedding: Unembedding, normed: torch.Tensor, tokens: torch.Tensor) -> _Sums:
        own = torch.linalg.vecdot(normed.float(), unembedding.weight[tokens].float())
        if unembedding.bias is not None:
            own += unembedding.bias[tokens]
        return cls(normed, tokens, unembedding.capped(own)[:, None])

    def __post_init__(self) -> None:
        self.exponentials = torch.zeros(len(self.tokens), dtype=torch.float64, device=self.tokens.device)
        self.own = torch.zeros_like(self.about[:, 0])

    def add(self, logits: torch.Tensor, start: int) -> None:
        """Take in [R, V'] logits of the vocabulary from `start` on, which are used up."""
        logits -= self.about
        here = ((self.tokens >= start) & (self.tokens < start + logits.shape[1])).nonzero()[:, 0]
        self.own[here] = logits[here, self.tokens[here] - start]
        self.exponentials += logits.exp_().sum(dim=1)

    def losses(self, unembedding: Unembedding) -> torch.Tensor:
        """[R] nats, float32."""
        found = (self.exponentials.log() - self.own).float()
        again = (~found.isfinite()).nonzero()[:, 0]
        for places in again.split(max(1, logit_bytes(found.device) // (4 * unembedding.vocabulary))):
            logits = unembedding.capped(unembedding.linear(self.normed[places]).float())
            found[places] = token_losses(logits, self.tokens[places])
        return found


def token_losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[R] cross-entropy of logits [R, V] and the tokens [R] that follow, in nats."""
    # cross_entropy makes another tensor of the logits' size
    return logits.logsumexp(dim=-1) - logits.gather(-1, tokens[:, None])[:, 0]


def cross_entropies(
    unembedding: Unembedding, normed: torch.Tensor, tokens: torch.Tensor, changes: Sequence[Change] = ()
) -> list[torch.Tensor]:
    """Losses of tokens, unedited (index 0) and of those that each change affects (1 to M).

    Args:
        normed: [P, D] unedited vectors as they enter the unembedding.
        tokens: [P] which token follows each.

    Returns:
        [P] and then [R] of each change: nats, float32.
    """
    plain = _Sums.over(unembedding, normed, tokens)
    changed = [_Sums.over(unembedding, change.normed, tokens[change.places]) for change in changes]
    order = depth_first([change.parent for change in changes])
    level: dict[int | None, int] = {None: 0}
    for i in order:
        level[i] = level[changes[i].parent] + 1
    inherited = {change.parent for change in changes if change.update is not None}
    for start, block, scratch in _blocks(unembedding, len(normed), max(map(level.__getitem__, inherited), default=-1)):
        unedited = _linear(unembedding, normed, start, block.level(0))
        plain.add(unembedding.capped(scratch.copy_(unedited) if None in inherited else unedited), start)
        for i in order:
            change, keep = changes[i], i in inherited
            out = (block.level(level[i]) if keep else scratch)[: len(change.places)]
            if change.update is None:
                logits = _linear(unembedding, change.normed, start, out)
            else:
                logits = change.update.logits(block, level[change.parent], out)
            if keep:
                logits = scratch[: len(out)].copy_(out if logits is out else out.copy_(logits))
            changed[i].add(unembedding.capped(logits), start)
    return [sums.losses(unembedding) for sums in (plain, *changed)]


def _blocks(unembedding: Unembedding, tokens: int, levels: int) -> Iterator[tuple[int, Block, torch.Tensor]]:
    """Where each block of the vocabulary starts, the memory of its logits, and [tokens, V'] more.

    Args:
        levels: that logits are inherited from, less one; without any, none are.
    """
    vocabulary, width = unembedding.weight.shape
    columns = width + 2 if levels >= 0 else 0
    device = unembedding.weight.device
    step = max(1, min(vocabulary, logit_bytes(device) // (4 * max(1, tokens, columns))))
    rows = columns + (max(0, levels) + 1) * tokens
    table, scratch = (torch.empty(count * step, device=device) for count in (rows, tokens))
    for start in range(0, vocabulary, step):
        size = min(step, vocabulary - start)
        block = Block(table[: rows * size].view(rows, size), columns, tokens)
        if columns:
            unembedding.columns(slice(start, start + size), block.columns)
        yield start, block, scratch[: tokens * size].view(tokens, size)


def _linear(unembedding: Unembedding, normed: torch.Tensor, start: int, out: torch.Tensor) -> torch.Tensor:
    """[R, V'] float32 logits before any cap, of the vocabulary from `start` on, in the memory of `out`."""
    block = slice(start, start + out.shape[1])
    if unembedding.weight.dtype == torch.float32:
        return unembedding.linear(normed, block, out)
    return out.copy_(unembedding.linear(normed, block))
