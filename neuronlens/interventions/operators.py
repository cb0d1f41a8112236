"""Operators: what happens to an activation that lies in a range. Elementwise, in float32, never in place. A new one is a new function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

DAMPEN_FACTOR = 0.125  # the reference's soft mask


@dataclass(frozen=True)
class Target:
    """What an operator may look at, [K] each.

    Attributes:
        lower, upper: the interval that holds the value; infinite for a whole neuron.
        mean, std: of the concept's fit rows.
        complement_mean, complement_std: of all other concepts' fit rows.
        pooled_mean: of all fit rows.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    complement_mean: torch.Tensor
    complement_std: torch.Tensor
    pooled_mean: torch.Tensor

    @property
    def bounded(self) -> torch.Tensor:
        """Whether the interval has a centre and a width."""
        return torch.isfinite(self.upper - self.lower) & (self.upper > self.lower)

    def to(self, device: torch.device | str) -> Target:
        """The same numbers on a device."""
        return Target(*(getattr(self, entry.name).to(device) for entry in fields(self)))


Operator = Callable[[torch.Tensor, Target, float], torch.Tensor]


def zero(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """0 (paper)."""
    return torch.zeros_like(values)


def mean(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """The mean activation of all fit rows (mean ablation)."""
    return target.pooled_mean.expand_as(values)


def complement_mean(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """The mean activation of the other concepts."""
    return target.complement_mean.expand_as(values)


def dampen(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """values * number * |values - centre| / half_width: 0 at the centre, `number` at the edge.

    A whole neuron has no edge: every value is infinitely nearer to the centre than to it, so the limit, 0, is what it becomes. (The
    reference computes inf - inf there and returns NaN.)
    """
    bounded = target.bounded
    centre, half_width = (target.lower + target.upper) / 2, (target.upper - target.lower) / 2
    share = (values - torch.where(bounded, centre, 0.0)).abs() / torch.where(bounded, half_width, 1.0)
    return torch.where(bounded, values * number * share, 0.0)


def scale(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """values * number."""
    return values * number


def clamp(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """The nearest bound of the range; the middle goes down. A whole neuron has no bound and stays as it is."""
    nearest = torch.where(values - target.lower <= target.upper - values, target.lower, target.upper)
    return torch.where(torch.isfinite(nearest), nearest, values)


def transport(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """complement_mean + (values - mean) * complement_std / std: the optimal map from the concept's Gaussian to the complement's.

    A neuron that is constant on the concept has no spread to map; it moves to the complement's mean.
    """
    ratio = torch.where(target.std > 0, target.complement_std / torch.where(target.std > 0, target.std, 1.0), 0.0)
    return target.complement_mean + (values - target.mean) * ratio


def steer(values: torch.Tensor, target: Target, number: float) -> torch.Tensor:
    """values + number * (mean - complement_mean): -1 carries the concept's mean onto the complement's, less carries it beyond."""
    return values + number * (target.mean - target.complement_mean)


OPERATORS: dict[str, Operator] = {
    function.__name__: function for function in (zero, mean, complement_mean, dampen, scale, clamp, transport, steer)
}


def parse_operator(text: str) -> tuple[str, float]:
    """Name and number of `dampen:0.5`; without one dampen has the reference's, and no other operator looks at it."""
    name, _, number = text.partition(":")
    return name, float(number) if number else DAMPEN_FACTOR


# the numbers of a target that an operator looks at, beside the interval
LOOKED_AT: dict[str, tuple[str, ...]] = {
    "mean": ("pooled_mean",),
    "complement_mean": ("complement_mean",),
    "transport": ("mean", "std", "complement_mean", "complement_std"),
    "steer": ("mean", "complement_mean"),
}
