"""The edit: forward hooks that change the activations lying in a range, around any forward or generate call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from neuronlens.activations.capture import attach
from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.errors import NeuronLensError
from neuronlens.interventions.operators import OPERATORS, Target, parse_operator
from neuronlens.ranges.leace import Erasure
from neuronlens.ranges.selection import Ranges
from neuronlens.sites import Site, resolve
from neuronlens.values import Pooling, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Edit(Protocol):
    """What changes the activations of a site. A new kind is a new class."""

    @property
    def site(self) -> Site:
        """Where."""

    @property
    def positions(self) -> Positions:
        """Which tokens."""

    @property
    def pooling(self) -> Pooling:
        """What `pooled` means."""

    @property
    def width(self) -> int:
        """How many neurons are looked at."""

    def to(self, device: torch.device | str) -> Edit:
        """The same edit with its tensors on a device."""

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New activations [B, T, D] and [B, T, width] bool, which were changed; `tokens` [B, T] says where it may act.

        Every token is treated by itself, so some of them may be edited without the others.
        """

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, width] bool, what `apply` would change."""

    def idle(self) -> Edit:
        """An edit like this one that never changes anything."""

    @property
    def extent(self) -> Hashable:
        """Equal for edits that change the same activations, whatever they make of them."""


@dataclass(frozen=True)
class Intervention:
    """An edit of the neurons that lie in their ranges.

    Attributes:
        site: where.
        neurons: [K] which coordinates.
        lower, upper: [K, I] float32 bounds of closed intervals; infinite for a whole neuron.
        target: [K] each, what operators look at besides the interval.
        operator: `zero`, `complement_mean`, `dampen:FACTOR` and so on (see `neuronlens.interventions.operators`).
        positions: `all` real tokens at every step; `last`, the last prompt token; `prompt`; `generated`; `pooled`, where
            activations are read.
        pooling: what `pooled` means.
        evidence: [2, B, K] nats for a neuron in its range and for one outside, where the neurons must agree; else None.
        threshold: [B] least sums of the evidence of a token that is edited.
    """

    site: Site
    neurons: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    target: Target
    operator: str = "zero"
    positions: Positions = "all"
    pooling: Pooling = "auto"
    evidence: torch.Tensor | None = None
    threshold: torch.Tensor | None = None

    @classmethod
    def of(
        cls, ranges: Ranges, operator: str = "zero", positions: Positions = "all", pooling: Pooling = "auto"
    ) -> Intervention:
        """The edit that applies an operator to fitted ranges."""
        numbers = (
            torch.from_numpy(getattr(ranges, name).astype(np.float32))
            for name in ("mean", "std", "complement_mean", "complement_std", "pooled_mean")
        )
        lower, upper = torch.from_numpy(ranges.lower), torch.from_numpy(ranges.upper)
        gate = ranges.agreement
        return cls(
            ranges.site,
            torch.from_numpy(ranges.neurons),
            lower,
            upper,
            Target(lower[:, 0], upper[:, 0], *numbers),
            operator,
            positions,
            pooling,
            None if gate is None else torch.from_numpy(np.stack([gate.inside, gate.outside])),
            None if gate is None else torch.from_numpy(gate.threshold),
        )

    @property
    def width(self) -> int:
        """How many neurons are looked at."""
        return len(self.neurons)

    def to(self, device: torch.device | str) -> Intervention:
        """The same edit with its tensors on a device."""
        return replace(
            self,
            neurons=self.neurons.to(device),
            lower=self.lower.to(device),
            upper=self.upper.to(device),
            target=self.target.to(device),
            evidence=None if self.evidence is None else self.evidence.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
        )

    def idle(self) -> Intervention:
        """The same hook over ranges that hold nothing."""
        return replace(
            self, lower=torch.full_like(self.lower, torch.inf), upper=torch.full_like(self.upper, -torch.inf)
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
        picked = hidden.index_select(-1, self.neurons)
        values = picked.float()
        name, number = parse_operator(self.operator)
        new = values
        within = self._within(values)
        for lower, upper, here in zip(self.lower.T, self.upper.T, within, strict=True):
            target = replace(self.target, lower=lower, upper=upper)
            new = torch.where(here, OPERATORS[name](values, target, number), new)
        inside = self._agreed(within, tokens)
        edited = hidden.index_copy(-1, self.neurons, torch.where(inside, new.to(hidden.dtype), picked))
        return edited, inside

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, K] bool, what `apply` would change."""
        return self._agreed(self._within(hidden.index_select(-1, self.neurons).float()), tokens)

    @property
    def extent(self) -> Hashable:
        """Site, tokens, neurons, intervals and gate."""
        given = (self.neurons, self.lower, self.upper, self.evidence, self.threshold)
        content = (b"" if part is None else part.cpu().numpy().tobytes() for part in given)
        return self.site, self.positions, self.pooling, *content

    def _within(self, values: torch.Tensor) -> list[torch.Tensor]:
        """[B, T, K] bool for each interval, which values lie in it."""
        return [(values >= lower) & (values <= upper) for lower, upper in zip(self.lower.T, self.upper.T, strict=True)]

    def _agreed(self, within: Sequence[torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, K] bool, which of the values in range are edited."""
        inside = functools.reduce(torch.logical_or, within)
        if self.evidence is not None and self.threshold is not None:
            for inward, outward, least in zip(*self.evidence, self.threshold, strict=True):
                tokens = tokens & (torch.where(inside, inward, outward).sum(dim=-1) >= least)
        return inside & tokens[..., None]


@dataclass(frozen=True)
class LinearErasure:
    """x -> x - direction * (probe . (x - mean)) at a site, in float32.

    Attributes:
        site, positions, pooling: as of an Intervention.
        direction, probe, mean: [D].
    """

    site: Site
    direction: torch.Tensor
    probe: torch.Tensor
    mean: torch.Tensor
    positions: Positions = "all"
    pooling: Pooling = "auto"

    @classmethod
    def of(cls, erasure: Erasure, positions: Positions = "all", pooling: Pooling = "auto") -> LinearErasure:
        """The edit of a fitted erasure."""
        direction, probe, mean = (
            torch.from_numpy(part.astype(np.float32)) for part in (erasure.direction, erasure.probe, erasure.mean)
        )
        return cls(erasure.site, direction, probe, mean, positions, pooling)

    @property
    def width(self) -> int:
        """How many neurons are looked at: all."""
        return len(self.mean)

    def to(self, device: torch.device | str) -> LinearErasure:
        """The same edit with its tensors on a device."""
        return replace(
            self, direction=self.direction.to(device), probe=self.probe.to(device), mean=self.mean.to(device)
        )

    def idle(self) -> LinearErasure:
        """The same hook with nothing to move along."""
        return replace(self, direction=torch.zeros_like(self.direction))

    @property
    def extent(self) -> Hashable:
        """Site and tokens."""
        return self.site, self.positions, self.pooling

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit activations; arguments and results as of `Intervention.apply`. Every coordinate of a token counts as changed."""
        values = hidden.float()
        along = (values - self.mean) @ self.probe
        moved = (values - along[..., None] * self.direction).to(hidden.dtype)
        changed = self.changed(hidden, tokens)
        return torch.where(changed, moved, hidden), changed

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, D] bool, what `apply` would change: every coordinate of a token."""
        return tokens[..., None].expand_as(hidden)


@dataclass(frozen=True)
class Joint:
    """Edits of several sites, made in the same forward call. A deeper one sees what the shallower ones have made of its activations.

    Attributes:
        items: one a site, in the order in which a forward call meets them.
    """

    items: tuple[Edit, ...]

    @classmethod
    def of(cls, items: Iterable[Edit]) -> Joint:
        """Put them into that order."""
        return cls(tuple(sorted(items, key=lambda item: item.site)))

    @property
    def site(self) -> Site:
        """The first: nothing before it is changed."""
        return self.items[0].site

    def idle(self) -> Joint:
        """The same with edits that never change anything."""
        return Joint(tuple(item.idle() for item in self.items))


AnyEdit = Edit | Joint


def parts_of(item: AnyEdit) -> tuple[Edit, ...]:
    """The edits of single sites that an edit is made of, in the order in which a forward call meets them."""
    return item.items if isinstance(item, Joint) else (item,)


def sites_of(item: AnyEdit) -> tuple[Site, ...]:
    """Where it acts."""
    return tuple(part.site for part in parts_of(item))


def where(item: AnyEdit) -> str:
    """The same in words."""
    sites = sites_of(item)
    return f"{'site' if len(sites) == 1 else 'sites'} {' and '.join(map(str, sites))}"


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
        tracker: of the model, where calls hold parts of a prompt.

    Yields:
        One dose per intervention, of the latest forward call.

    Raises:
        SiteError: a site resolves to nothing in this model.
        LensError: a lens is of another checkpoint.
        NeuronLensError: a hook never fired although the model was called.
    """
    given = interventions if isinstance(interventions, Sequence) else [interventions]
    edits = [_item(each, model, operator) for each in given]
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
