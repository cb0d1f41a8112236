"""Methods: fitted ranges and what is done in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronlens.config import Config
from neuronlens.interventions.kinds import Intervention, LinearErasure
from neuronlens.ranges.leace import Erasure, read_erasures
from neuronlens.ranges.selection import Ranges
from neuronlens.ranges.tables import read_ranges
from neuronlens.values import Pooling, Positions

CONTROLS = ("random_neurons", "random_ranges", "other_concept")


@dataclass(frozen=True)
class Method:
    """Ranges, or a linear erasure, and what is done: one row of results.parquet."""

    ranges: Ranges | Erasure
    operator: str = "zero"
    positions: Positions = "all"

    @property
    def name(self) -> str:
        """The method without its concept, such as `gaussian-2.5/d_prime/0.1/zero/all`."""
        if isinstance(self.ranges, Erasure):
            return f"leace/{self.positions}"
        ranges = self.ranges
        kind = ranges.kind if ranges.base in (ranges.kind, "gaussian", "full") else f"{ranges.kind}-{ranges.base}"
        width = "".join(f"-{number:g}" for number in (ranges.tau, ranges.threshold) if number is not None)
        gate = f"+{ranges.gate}" if ranges.gate != "none" and ranges.kind == ranges.base else ""
        return f"{kind}{width}{gate}/{ranges.saliency}/{ranges.top:g}/{self.operator}/{self.positions}"

    @property
    def is_control(self) -> bool:
        """Whether it is what ranges are held against."""
        return isinstance(self.ranges, Erasure) or self.ranges.kind in CONTROLS

    @property
    def role(self) -> str:
        """`sweep`, or `tuned` for candidates of the tuned method and their controls."""
        return "sweep" if isinstance(self.ranges, Erasure) else self.ranges.role

    @property
    def identity(self) -> dict[str, Any]:
        """The columns of results.parquet that say what was done."""
        ranges = self.ranges
        common = {"site": str(ranges.site), "concept": ranges.concept, "method": self.name, "setting": self.name}
        if isinstance(ranges, Erasure):
            what = {"role": "sweep", "saliency": "none", "top": 1.0, "range": "leace", "base": "leace", "tau": None}
            how = {"threshold": None, "gate": "none", "neurons": len(ranges.mean), "operator": "erase"}
            return common | what | how | {"positions": self.positions}
        return common | {
            "role": ranges.role,
            "saliency": ranges.saliency,
            "top": ranges.top,
            "range": ranges.kind,
            "base": ranges.base,
            "tau": ranges.tau,
            "threshold": ranges.threshold,
            "gate": ranges.gate,
            "neurons": len(ranges.neurons),
            "operator": self.operator,
            "positions": self.positions,
        }

    def edit(self, pooling: Pooling) -> Intervention | LinearErasure:
        """What it does to the model."""
        if isinstance(self.ranges, Erasure):
            return LinearErasure.of(self.ranges, self.positions, pooling)
        return Intervention.of(self.ranges, self.operator, self.positions, pooling)

    def mirrors(self, other: Method) -> bool:
        """Whether this is a control of another method of the same concept and site."""
        own, theirs = self.ranges, other.ranges
        if isinstance(own, Erasure) or isinstance(theirs, Erasure) or own.kind not in CONTROLS:
            return False
        names = ("site", "concept", "role", "top", "tau", "threshold")
        saliency = "random" if own.kind == "random_neurons" else theirs.saliency
        return (
            all(getattr(own, name) == getattr(theirs, name) for name in names)
            and (own.base, self.operator, self.positions) == (theirs.label, other.operator, other.positions)
            and own.saliency == saliency
        )

    @property
    def effect(self) -> tuple[object, ...]:
        """Equal for methods that do the same to the model, whatever concept they are measured on."""
        if isinstance(self.ranges, Erasure):
            return "leace", self.ranges.site, self.ranges.concept, self.positions
        ranges, gate = self.ranges, self.ranges.agreement
        arrays = (ranges.neurons, ranges.lower, ranges.upper, ranges.mean, ranges.std, ranges.complement_mean)
        evidence = () if gate is None else (gate.inside.tobytes(), gate.outside.tobytes(), gate.threshold.tobytes())
        content = tuple(array.tobytes() for array in (*arrays, ranges.complement_std, ranges.pooled_mean))
        return ranges.site, self.operator, self.positions, content, evidence


def read_methods(fit: Path, config: Config) -> list[Method]:
    """Everything that the stage `fit` prepared for evaluation, each (site, concept, name) once."""
    asked = config.interventions
    operators = {"sweep": asked.operators, "tuned": asked.tuned.operators if asked.tuned else ()}
    found = [
        Method(ranges, operator, asked.positions)
        for ranges in read_ranges(fit / "ranges.parquet")
        for operator in operators[ranges.role]
    ]
    if (fit / "leace.parquet").exists():
        found += [Method(erasure, positions=asked.positions) for erasure in read_erasures(fit / "leace.parquet")]
    known: dict[tuple[object, ...], Method] = {}
    for method in found:  # what is in the sweep and among the candidates of the tuned method has one name and two roles
        known.setdefault((method.ranges.site, method.ranges.concept, method.role, method.name), method)
    return list(known.values())


def distinct(methods: Sequence[Method]) -> tuple[list[Method], list[int]]:
    """Methods that differ in what they do, and the place of each given method among them."""
    places: dict[tuple[object, ...], int] = {}
    first: list[Method] = []
    index = []
    for method in methods:
        key = method.effect
        if key not in places:
            places[key] = len(first)
            first.append(method)
        index.append(places[key])
    return first, index


def by_place(methods: Iterable[Method]) -> dict[tuple[str, str], list[int]]:
    """(site, concept) -> places of its methods, in order."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, method in enumerate(methods):
        found.setdefault((str(method.ranges.site), method.ranges.concept), []).append(i)
    return found
