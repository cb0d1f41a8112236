"""Columns: the logits under an edit of few neurons from the unedited ones, by the columns of the unembedding that the edit touches.

A final norm treats every neuron alike but for a gain and a shift. With n the normed vector of a token and n' that of its edited one,

    n' = a n + (1 - a) shift + c gain + s,

where s is zero outside the edited neurons S, and a and c are numbers of the token: a is by how much the edit has changed the spread, c by
how much the mean, which an RMSNorm does not look at. With the unembedding W, the edited logits are therefore

    W n' = a W n + (1 - a) W shift + c W gain + W[:, S] s[S],

a product over |S| + 2 columns instead of D.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuronlens.evaluation.unembedding import Unembedding

# Measured on a processor for D = 768: a column of an update takes as long as one of the whole product, and scaling the unedited logits as
# long as some twenty columns more.
_PAYING_SHARE = 0.9
# Largest part of n' outside S that the formula may miss, relative to the largest coordinate. A norm in float32 rounds by a tenth of it.
_TOLERANCE = 3e-6


def paying_share(neurons: int, width: int) -> float:
    """Share of the product with all D columns that an update of some neurons takes; 1 where the product is taken anew.

    Args:
        neurons: K that an edit touches.
        width: D.
    """
    return (neurons + 2) / width if neurons + 2 <= _PAYING_SHARE * width else 1.0


@dataclass(frozen=True)
class ColumnUpdate:
    """How the logits of N tokens follow from their unedited ones: scale * logits + coefficients @ columns.

    Attributes:
        neurons: [K] which columns of the unembedding.
        scale: [N, 1] a.
        coefficients: [N, K + 2] s of the neurons, 1 - a and c.
    """

    neurons: torch.Tensor
    scale: torch.Tensor
    coefficients: torch.Tensor

    @classmethod
    def between(
        cls, unembedding: Unembedding, normed: torch.Tensor, edited: torch.Tensor, neurons: torch.Tensor
    ) -> ColumnUpdate | None:
        """The update that leads from normed vectors to edited ones; None where there is none, or where it would take no less time.

        Args:
            normed, edited: [N, D] as they enter the unembedding.
            neurons: [K] that an edit of the vectors before the norm has touched.
        """
        width = normed.shape[1]
        exact = {normed.dtype, edited.dtype, unembedding.weight.dtype} == {torch.float32}
        if not exact or paying_share(len(neurons), width) == 1:
            return None
        untouched = torch.ones(width, dtype=torch.bool, device=normed.device)
        untouched[neurons] = False
        gain, shift = unembedding.norm_weight.double(), unembedding.norm_bias.double()
        before, after = normed.double() - shift, edited.double() - shift
        scale, move = _least_squares(before[:, untouched], after[:, untouched], gain[untouched])
        rest = after - scale * before - move * gain
        missed = rest[:, untouched].abs().amax(dim=1)
        if not bool((missed <= _TOLERANCE * edited.abs().amax(dim=1)).all()):  # NaN is no update either
            return None
        coefficients = torch.cat([rest[:, neurons], 1 - scale, move], dim=1)
        return cls(neurons, scale.float(), coefficients.float())

    def columns(self, unembedding: Unembedding, block: slice) -> torch.Tensor:
        """[K + 2, V'] what the coefficients multiply, for a block of the vocabulary."""
        weight = unembedding.weight[block]
        found = weight.new_empty(len(weight), len(self.neurons) + 2)
        found[:, :-2] = weight.index_select(1, self.neurons)
        found[:, -2:] = unembedding.norm_logits[block]
        return found.T


def _least_squares(before: torch.Tensor, after: torch.Tensor, gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 1] a and c for which a * before + c * gain is nearest to after, for vectors [N, U]."""
    squares, crossed = (before * before).sum(dim=1, keepdim=True), (before * after).sum(dim=1, keepdim=True)
    if not gain.any():
        return crossed / squares, torch.zeros_like(squares)
    # the part of `before` that is no multiple of the gain decides on a
    along, power = (before @ gain)[:, None], gain @ gain
    target = (after @ gain)[:, None]
    scale = (crossed - along * target / power) / (squares - along**2 / power)
    return scale, (target - scale * along) / power
