"""Operators: what happens to an activation that lies in a range. Elementwise, in float32, never in place. A new one is a new function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

DAMPEN_FACTOR = 0.125  # the reference's soft mask


@dataclass(frozen=True)
class Target:
    """What an operator may look at.

    Attributes:
        centre, half_width: [K] of the interval that holds the value; half_width is infinite for a whole neuron.
        replacement: [K] mean activation of the complement.
        factor: the operator's own parameter.
    """

    centre: torch.Tensor
    half_width: torch.Tensor
    replacement: torch.Tensor
    factor: float


def zero(values: torch.Tensor, target: Target) -> torch.Tensor:  # noqa: ARG001  (operators share one signature)
    """0 (paper)."""
    return torch.zeros_like(values)


def complement_mean(values: torch.Tensor, target: Target) -> torch.Tensor:
    """The mean activation of the other concepts."""
    return target.replacement.expand_as(values)


def dampen(values: torch.Tensor, target: Target) -> torch.Tensor:
    """values * factor * |values - centre| / half_width: 0 at the centre, `factor` at the edge.

    A whole neuron has no edge: every value is infinitely nearer to the centre than to it, so the limit, 0, is what it becomes. (The
    reference computes inf - inf there and returns NaN.)
    """
    finite = torch.isfinite(target.half_width) & (target.half_width > 0)
    share = (values - target.centre).abs() / torch.where(finite, target.half_width, 1.0)
    return torch.where(finite, values * target.factor * share, 0.0)


OPERATORS: dict[str, Callable[[torch.Tensor, Target], torch.Tensor]] = {
    "zero": zero,
    "complement_mean": complement_mean,
    "dampen": dampen,
}


def parse_operator(text: str) -> tuple[str, float]:
    """Name and factor of `dampen:0.5`; the factor is the reference's where none is given."""
    name, _, factor = text.partition(":")
    return name, float(factor) if factor else DAMPEN_FACTOR
