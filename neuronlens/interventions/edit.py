"""The edit: forward hooks that change the activations lying in a range, around any forward or generate call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuronlens.activations.capture import attach
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.config import Pooling, Positions
from neuronlens.errors import NeuronLensError
from neuronlens.interventions.operators import OPERATORS, Target, parse_operator
from neuronlens.ranges.fit import Ranges
from neuronlens.sites import Site, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Intervention:
    """An edit of one site.

    Attributes:
        site: where.
        neurons: [K] which coordinates.
        lower, upper: [K, I] float32 bounds of closed intervals; infinite for a whole neuron.
        operator: `zero`, `complement_mean`, `dampen` or `dampen:FACTOR`.
        replacement: [K] what `complement_mean` writes.
        positions: `all` real tokens at every step; `last`, the last prompt token; `prompt`; `generated`; `pooled`, where
            activations are read.
        pooling: what `pooled` means.
    """

    site: Site
    neurons: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    operator: str = "zero"
    replacement: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    positions: Positions = "all"
    pooling: Pooling = "auto"

    @classmethod
    def of(
        cls, ranges: Ranges, operator: str = "zero", positions: Positions = "all", pooling: Pooling = "auto"
    ) -> Intervention:
        """The edit that applies an operator to fitted ranges."""
        return cls(
            ranges.site,
            torch.from_numpy(ranges.neurons),
            torch.from_numpy(ranges.lower),
            torch.from_numpy(ranges.upper),
            operator,
            torch.from_numpy(ranges.replacement.astype(np.float32)),
            positions,
            pooling,
        )

    def to(self, device: torch.device | str) -> Intervention:
        """The same edit with its tensors on a device."""
        moved = (tensor.to(device) for tensor in (self.neurons, self.lower, self.upper))
        neurons, lower, upper = moved
        return Intervention(
            self.site, neurons, lower, upper, self.operator, self.replacement.to(device), self.positions, self.pooling
        )

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit activations.

        Membership is decided in float32 whatever the model's dtype: bounds rounded to bfloat16 would flip up to 2.5 % of the decisions.

        Args:
            hidden: [B, T, D]; not changed.
            tokens: [B, T] bool, where the edit may act.

        Returns:
            [B, T, D] in the dtype of `hidden`, and [B, T, K] bool: which activations were changed.
        """
        picked = hidden[..., self.neurons]
        values = picked.float()
        inside = torch.zeros_like(picked, dtype=torch.bool)
        name, factor = parse_operator(self.operator)
        new = values
        for interval in range(self.lower.shape[1]):
            lower, upper = self.lower[:, interval], self.upper[:, interval]
            here = (values >= lower) & (values <= upper) & tokens[..., None]
            target = Target((lower + upper) / 2, (upper - lower) / 2, self.replacement, factor)
            new = torch.where(here, OPERATORS[name](values, target), new)
            inside |= here
        edited = hidden.clone()
        edited[..., self.neurons] = torch.where(inside, new.to(hidden.dtype), picked)
        return edited, inside


@dataclass
class Dose:
    """How much the latest forward call was changed by one intervention.

    Attributes:
        changed: [B] activations in range at the positions looked at.
        looked_at: [B] activations at those positions, over the intervention's neurons.
        calls: how often the hook has fired.
    """

    changed: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    looked_at: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    calls: int = 0


@contextlib.contextmanager
def edit(
    model: PreTrainedModel,
    interventions: Ranges | Intervention | Sequence[Ranges | Intervention],
    *,
    operator: str = "zero",
) -> Iterator[list[Dose]]:
    """Edit a model's activations during the forward and generate calls inside the block; afterwards the model is as it was.

    Several edits of one site are applied in the order given, each seeing what the one before it left.

    Args:
        interventions: edits, or fitted ranges, which get `operator` at all positions.

    Yields:
        One dose per intervention, of the latest forward call.

    Raises:
        SiteError: a site resolves to nothing in this model.
        NeuronLensError: a hook never fired although the model was called.
    """
    given = interventions if isinstance(interventions, Sequence) else [interventions]
    edits = [item if isinstance(item, Intervention) else Intervention.of(item, operator) for item in given]
    doses = [Dose() for _ in edits]
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(TokenTracker(model))
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        stack.callback(model.register_forward_hook(count).remove)
        for item, dose in zip(edits, doses, strict=True):
            change = _changer(item, dose, tracker, model)
            stack.callback(attach(resolve(model, item.site), change).remove)
        yield doses
        for item, dose in zip(edits, doses, strict=True):
            if dose.calls != calls:
                raise NeuronLensError(f"the edit of site {item.site} fired {dose.calls} times in {calls} forward calls")


def _changer(
    item: Intervention, dose: Dose, tracker: TokenTracker, model: PreTrainedModel
) -> Callable[[torch.Tensor], torch.Tensor]:
    pooling = resolve_pooling(item.pooling, model.config.model_type)
    placed = item

    def change(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal placed
        if placed.neurons.device != hidden.device:  # blocks of one model may lie on several devices
            placed = item.to(hidden.device)
        tokens = tracker.where(item.positions, pooling).to(hidden.device)
        edited, inside = placed.apply(hidden, tokens)
        dose.changed = inside.sum(dim=(1, 2))
        dose.looked_at = tokens.sum(dim=1) * len(item.neurons)
        dose.calls += 1
        return edited

    return change
