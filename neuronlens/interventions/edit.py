"""The edit: forward hooks that change the activations lying in a range, around any forward or generate call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from neuronlens.activations.capture import attach
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.errors import NeuronLensError
from neuronlens.interventions.kinds import AnyEdit, Edit, Intervention, parts_of, where
from neuronlens.interventions.latents import on_activations
from neuronlens.ranges.selection import Ranges
from neuronlens.sites import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@runtime_checkable
class Bound(Protocol):
    """An edit that belongs to a checkpoint."""

    def item_for(self, model: PreTrainedModel) -> AnyEdit:
        """What is done to a model.

        Raises:
            UserError: it is not the one that the edit belongs to.
        """


Editing = Ranges | AnyEdit | Bound


@dataclass
class Dose:
    """How much the latest forward call was changed by one intervention.

    Attributes:
        changed: [B] activations in range at the positions looked at, over all its sites.
        looked_at: [B] activations at those positions, over the intervention's neurons.
        calls: how often its hooks have fired.
    """

    changed: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    looked_at: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    calls: int = 0


@contextlib.contextmanager
def edit(
    model: PreTrainedModel,
    interventions: Editing | Sequence[Editing],
    *,
    operator: str = "zero",
    tracker: TokenTracker | None = None,
) -> Iterator[list[Dose]]:
    """Edit a model's activations during the forward and generate calls inside the block; afterwards the model is as it was.

    Several edits are made site by site as a forward call meets them, and those of one site in the order given, each seeing what the ones
    before it left.

    Args:
        interventions: edits, lenses, or fitted ranges, which get `operator` at all positions.
        tracker: of the model, where calls hold the beginning of a prompt only.

    Yields:
        One dose per intervention, of the latest forward call.

    Raises:
        SiteError: a site resolves to nothing in this model.
        LensError: a lens is of another checkpoint.
        NeuronLensError: a hook never fired although the model was called.
    """
    given = interventions if isinstance(interventions, Sequence) else [interventions]
    edits = on_activations(model, [_item(each, model, operator) for each in given])
    doses = [Dose() for _ in edits]
    with contextlib.ExitStack() as stack:
        follower = stack.enter_context(tracker or TokenTracker(model))
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        stack.callback(model.register_forward_hook(count).remove)
        for item, dose in zip(edits, doses, strict=True):
            for place, part in enumerate(parts_of(item)):
                change = _changer(part, dose, follower, model, first=not place)
                stack.callback(attach(resolve(model, part.site), change).remove)
        yield doses
        for item, dose in zip(edits, doses, strict=True):
            if dose.calls != calls * len(parts_of(item)):
                raise NeuronLensError(f"the edit of {where(item)} fired {dose.calls} times in {calls} forward calls")


def _item(given: Editing, model: PreTrainedModel, operator: str) -> AnyEdit:
    if isinstance(given, Ranges):
        return Intervention.of(given, operator)
    return given.item_for(model) if isinstance(given, Bound) else given


def _changer(
    item: Edit, dose: Dose, tracker: TokenTracker, model: PreTrainedModel, *, first: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a hook does.

    Args:
        first: whether a forward call begins to count the dose here, rather than adding to it.
    """
    pooling = resolve_pooling(item.pooling, model.config)
    placed: dict[torch.device, Edit] = {}  # blocks of one model may lie on several devices

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.device not in placed:
            placed[hidden.device] = item.to(hidden.device)
        tokens = tracker.where(item.positions, pooling).to(hidden.device)
        edited, inside = placed[hidden.device].apply(hidden, tokens)
        changed, looked_at = inside.sum(dim=(1, 2)), tokens.sum(dim=1) * item.width
        if not first:
            changed, looked_at = dose.changed + changed.to(dose.changed), dose.looked_at + looked_at.to(dose.looked_at)
        dose.changed, dose.looked_at = changed, looked_at
        dose.calls += 1
        return edited

    return change
