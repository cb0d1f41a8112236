"""Columns: the logits under an edit from those without it, by the columns of the unembedding that the edit touches.

A final norm treats every neuron alike but for a gain and a shift. With n the normed vector of a token and n' that of its edited one,

    n' = a n + (1 - a) shift + c gain + s,

where s is zero outside the touched neurons S, and a and c are numbers of the token: a is by how much the edit has changed the spread, c by
how much the mean, which an RMSNorm does not look at. With the unembedding W, the edited logits are therefore

    W n' = a W n + (1 - a) W shift + c W gain + W[:, S] s[S].

Where all tokens have nearly the same S this is a product over |S| + 2 columns instead of D. Where each has few of its own, as between the
edit of a range and that of the whole neurons, it is a sum of these few for every token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuronlens.evaluation.unembedding import Unembedding

# Measured on a processor for D = 768: a column of an update takes as long as one of the whole product, and scaling the logits as long as
# some twenty columns more.
_PAYING_SHARE = 0.9
# Columns of a product that take as long as one entry of a sum, for every token.
_ENTRY = 3
# Largest part of n' outside S that the formula may miss, relative to the largest coordinate. A norm in float32 rounds by a tenth of it.
_TOLERANCE = 3e-6
# Largest a. The logits' roundings grow with it.
_LARGEST_SCALE = 16


def paying_share(neurons: int, width: int) -> float:
    """Share of the product with all D columns that an update of some neurons takes; 1 where the product is taken anew.

    Args:
        neurons: K that an edit touches.
        width: D.
    """
    return (neurons + 2) / width if neurons + 2 <= _PAYING_SHARE * width else 1.0


def update_work(touched: torch.Tensor) -> float:
    """Of the cheapest update, in columns of a product.

    Args:
        touched: [N, D] bool, which neurons of each token.
    """
    dense = int(touched.any(dim=0).sum())
    return min(dense, _entries_work(touched))


def _entries_work(touched: torch.Tensor) -> float:
    # elsewhere a sum is no quicker than a product
    return _ENTRY * float(touched.sum()) / max(1, len(touched)) if touched.device.type == "cpu" else torch.inf


@dataclass(frozen=True)
class Block:
    """What updates are made from, for a block of the vocabulary: one float32 table.

    Attributes:
        table: [C + L N, V'] the unembedding's columns with those of the norm's shift and gain, and L levels of N tokens' logits.
        count: C, which is D + 2.
        tokens: N.
    """

    table: torch.Tensor
    count: int
    tokens: int

    @property
    def columns(self) -> torch.Tensor:
        """[C, V']."""
        return self.table[: self.count]

    def level(self, number: int) -> torch.Tensor:
        """[N, V'] logits."""
        start = self.count + number * self.tokens
        return self.table[start : start + self.tokens]


@dataclass(frozen=True)
class ColumnUpdate:
    """How the logits of R tokens follow from others by the same columns for all: scale * logits + coefficients @ columns.

    Attributes:
        rows: [R] whose logits among those of a level.
        columns: [K + 2] neurons, and the columns of shift and gain.
        scale: [R, 1] a.
        coefficients: [R, K + 2] s of the neurons, 1 - a and c.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    scale: torch.Tensor
    coefficients: torch.Tensor

    def logits(self, block: Block, level: int, out: torch.Tensor) -> torch.Tensor:
        """[R, V'], from the logits of a level, in the memory of `out`."""
        before = block.level(level)
        if len(self.rows) < len(before):
            before = before[self.rows]
        torch.mul(before, self.scale, out=out)
        return out.addmm_(self.coefficients, block.columns.index_select(0, self.columns))


@dataclass(frozen=True)
class EntryUpdate:
    """How the logits of R tokens follow from others by columns of each token's own: a weighted sum of rows of the table for each.

    Attributes:
        starts: [R] int32, where the entries of each token begin. The first of them is its logits'.
        entries: [E] int32, rows of the table, where the logits lie in its first level.
        weights: [E] a, s of the token's neurons, 1 - a and c.
    """

    starts: torch.Tensor
    entries: torch.Tensor
    weights: torch.Tensor

    def logits(self, block: Block, level: int, _: torch.Tensor) -> torch.Tensor:
        """[R, V'], from the logits of a level, in memory of their own: embedding_bag writes to no other."""
        entries = self.entries.clone()
        entries[self.starts.long()] += level * block.tokens
        # 32-bit places take a path that is twice as fast
        return torch.nn.functional.embedding_bag(
            entries, block.table, self.starts, mode="sum", per_sample_weights=self.weights
        )


Update = ColumnUpdate | EntryUpdate


def update_between(
    unembedding: Unembedding, normed: torch.Tensor, edited: torch.Tensor, touched: torch.Tensor, rows: torch.Tensor
) -> Update | None:
    """The cheapest update that leads from normed vectors to edited ones; None where there is none, or where it would take no less time.

    Args:
        normed, edited: [R, D] as they enter the unembedding.
        touched: [R, D] bool, which neurons the edit has touched before the norm.
        rows: [R] place of each among the tokens whose logits are known.
    """
    width = normed.shape[1]
    exact = {normed.dtype, edited.dtype, unembedding.weight.dtype} == {torch.float32}
    if touched.shape[1] != width:  # a projection stands between the norm and the unembedding
        return None
    if not exact or paying_share(int(update_work(touched)), width) == 1:
        return None
    gain, shift = unembedding.norm_weight.double(), unembedding.norm_bias.double()
    before, after = normed.double() - shift, edited.double() - shift
    scale, move = _least_squares(before, after, gain, ~touched)
    rest = after - scale * before - move * gain
    missed = rest.abs().masked_fill_(touched, 0).amax(dim=1)
    holds = (missed <= _TOLERANCE * edited.abs().amax(dim=1)) & (scale[:, 0].abs() <= _LARGEST_SCALE)
    if not bool(holds.all()):  # NaN is no update either
        return None
    own = torch.cat([1 - scale, move], dim=1)
    if _entries_work(touched) < int(touched.any(dim=0).sum()):
        return _entries(touched, rest, scale, own, rows)
    neurons = touched.any(dim=0).nonzero()[:, 0]
    columns = torch.cat([neurons, torch.tensor([width, width + 1], device=neurons.device)])
    return ColumnUpdate(rows, columns, scale.float(), torch.cat([rest[:, neurons], own], dim=1).float())


def _entries(
    touched: torch.Tensor, rest: torch.Tensor, scale: torch.Tensor, own: torch.Tensor, rows: torch.Tensor
) -> EntryUpdate:
    """Every token's entries side by side: its logits, its neurons, shift and gain."""
    count, width = touched.shape
    always = touched.new_ones(count, 1)
    used = torch.cat([always, touched, always, always], dim=1)
    places = torch.arange(width + 2, device=touched.device).expand(count, -1)
    places = torch.cat([(width + 2 + rows)[:, None], places], dim=1)
    weights = torch.cat([scale, rest, own], dim=1)
    starts = used.sum(dim=1).cumsum(dim=0).roll(1)
    starts[0] = 0
    return EntryUpdate(starts.int(), places[used].int(), weights[used].float())


def _least_squares(
    before: torch.Tensor, after: torch.Tensor, gain: torch.Tensor, where: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, 1] a and c for which a * before + c * gain is nearest to after in some coordinates of the vectors [R, D]."""
    before, after, gain = before * where, after * where, gain * where
    squares, crossed = (before * before).sum(dim=1, keepdim=True), (before * after).sum(dim=1, keepdim=True)
    if not gain.any():
        return crossed / squares, torch.zeros_like(squares)
    # the part of `before` that is no multiple of the gain decides on a
    along, power = (before * gain).sum(dim=1, keepdim=True), (gain * gain).sum(dim=1, keepdim=True)
    target = (after * gain).sum(dim=1, keepdim=True)
    scale = (crossed - along * target / power) / (squares - along**2 / power)
    return scale, (target - scale * along) / power
