"""How far each neuron's activations moved between two checkpoints, and what became of its ranges.

A neuron's activations on a concept's rows are summed up by their Gaussian, as its range is; the distance of two Gaussians is the
2-Wasserstein distance, sqrt((mean_b - mean_a)^2 + (std_b - std_a)^2), in units of their pooled std, sqrt((std_a^2 + std_b^2) / 2) (Givens
and Shortt, Michigan Mathematical Journal 31, 1984, proposition 7, in one dimension).

Both checkpoints are read on the same rows, so a drift is resampled with them: rows are drawn again for both at once, and how far the
largest distances stray bounds all neurons together. Beside it stands the noise floor: how far two draws of rows lie apart under one and the
same checkpoint. Of thousands of neurons some always lie far apart; the floor is what the farthest of them reaches in 19 of 20 draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.uncertainty import LEVEL
from neuronlens.sites import Site

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

RESAMPLES = 200
_CHUNK = 1 << 22  # values of float64 held at once, per resampled statistic


@dataclass(frozen=True)
class Gaussians:
    """Of every neuron, on a concept's rows.

    Attributes:
        mean, std: [D], or [R, D] of resamples; ddof 0.
    """

    mean: Array
    std: Array

    @classmethod
    def of(cls, values: Floats, weights: Array | None = None) -> Gaussians:
        """Of values [D, n].

        Args:
            weights: [R, n] how often each row counts in each resample; each row once unless told otherwise.
        """
        exact = values.astype(np.float64)
        centre = exact.mean(
            axis=1, keepdims=True
        )  # a mean of 2000 with a std of 0.5 would lose its digits in the squares
        exact -= centre
        if weights is None:
            return cls(centre[:, 0], np.sqrt(np.square(exact).mean(axis=1)))
        shares = weights / weights.sum(axis=1, keepdims=True)
        mean = shares @ exact.T
        variance = shares @ np.square(exact).T - np.square(mean)
        return cls(mean + centre[:, 0], np.sqrt(np.maximum(variance, 0.0)))

    def to(self, other: Gaussians) -> Array:
        """Distance to others, in pooled stds. Two constants lie 0 apart where they are equal, else infinitely far."""
        far = np.hypot(other.mean - self.mean, other.std - self.std)
        unit = np.sqrt((np.square(self.std) + np.square(other.std)) / 2)
        return np.divide(far, unit, out=np.where(far > 0, np.inf, 0.0), where=unit > 0)


@dataclass(frozen=True)
class Drift:
    """Of a concept at a site.

    Attributes:
        site, concept: where and what.
        n: rows, those that both audits fitted on.
        before, after: Gaussians of either checkpoint.
        distance: [D] between them, in pooled stds.
        stray: what the largest of `distance` may be off by, 95 %.
        floor: what the largest distance under one checkpoint reaches in 19 of 20 pairs of draws of as many rows.
        shift_floor, width_floor: the same for the means alone, in pooled stds, and for the log of the stds' ratio.
    """

    site: Site
    concept: str
    n: int
    before: Gaussians
    after: Gaussians
    distance: Array
    stray: float
    floor: float
    shift_floor: float
    width_floor: float

    @property
    def shift(self) -> Array:
        """[D] how far the mean moved, in pooled stds."""
        unit = np.sqrt((np.square(self.before.std) + np.square(self.after.std)) / 2)
        gap = self.after.mean - self.before.mean
        return np.divide(gap, unit, out=np.where(gap == 0, 0.0, np.copysign(np.inf, gap)), where=unit > 0)

    @property
    def widening(self) -> Array:
        """[D] log of the stds' ratio, after over before; 0 for two constants."""
        return _log_ratio(self.before.std, self.after.std)

    @property
    def moved(self) -> npt.NDArray[np.bool_]:
        """[D] whether the mean moved farther than the floor."""
        return np.abs(self.shift) > self.shift_floor

    @property
    def widened(self) -> npt.NDArray[np.int8]:
        """[D] 1 where the std grew by more than the floor, -1 where it shrank so, else 0."""
        widening = self.widening
        return ((widening > self.width_floor).astype(np.int8) - (widening < -self.width_floor)).astype(np.int8)


def drift(site: Site, concept: str, before: Floats, after: Floats, seed: int) -> Drift:
    """Between activations of the same rows.

    Args:
        before, after: [D, n] under either checkpoint, n at least 2.
        seed: decides the draws.
    """
    n = before.shape[1]
    old, new = Gaussians.of(before), Gaussians.of(after)
    distance = old.to(new)
    stray, floors = np.zeros(RESAMPLES), np.zeros((3, RESAMPLES))
    weights, others = _draws(n, seed, "rows"), _draws(n, seed, "others")
    step = max(1, _CHUNK // max(RESAMPLES, n))
    for start in range(0, len(before), step):
        cut = slice(start, start + step)
        one, two = Gaussians.of(before[cut], weights), Gaussians.of(after[cut], weights)
        apart = np.abs(_finite(one.to(two)) - _finite(distance[cut]))
        stray = np.maximum(stray, apart.max(axis=1))
        other = Gaussians.of(before[cut], others)
        unit = np.sqrt((np.square(one.std) + np.square(other.std)) / 2)
        gap = np.abs(one.mean - other.mean)
        shift = np.divide(gap, unit, out=np.zeros_like(gap), where=unit > 0)
        for i, found in enumerate((_finite(one.to(other)), shift, np.abs(_finite(_log_ratio(one.std, other.std))))):
            floors[i] = np.maximum(floors[i], found.max(axis=1))
    same = bool(np.array_equal(before, after))
    limits = np.quantile(floors, LEVEL, axis=1)
    return Drift(
        site, concept, n, old, new, distance, 0.0 if same else float(np.quantile(stray, LEVEL)), *map(float, limits)
    )


def _draws(n: int, seed: int, purpose: str) -> Array:
    """[R, n] how often each of n rows is drawn, n - 1 of them (see `neuronlens.evaluation.uncertainty.stratified_weights`)."""
    generator = np.random.default_rng([seed, n, *purpose.encode()])
    return generator.multinomial(max(1, n - 1), np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _log_ratio(before: Array, after: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before == after, 0.0, np.log(after) - np.log(before))


def _finite(values: Array) -> Array:
    """Without the infinities of neurons that are constant in a draw: they say nothing of the others."""
    return np.where(np.isfinite(values), values, 0.0)


def drift_table(found: Sequence[Drift]) -> pa.Table:
    """drift.parquet: one row per (site, concept, neuron)."""
    tables = []
    for part in found:
        count = len(part.distance)
        columns: dict[str, object] = {
            "site": pa.array([str(part.site)] * count),
            "concept": pa.array([part.concept] * count),
            "neuron": np.arange(count, dtype=np.int32),
            "n": np.full(count, part.n, dtype=np.int32),
            "mean_before": part.before.mean,
            "std_before": part.before.std,
            "mean_after": part.after.mean,
            "std_after": part.after.std,
            "wasserstein": part.distance,
            "shift": part.shift,
            "widening": part.widening,
            "moved": part.moved,
            "widened": part.widened,
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


STATES = ("kept", "moved", "widened", "narrowed", "moved and widened", "moved and narrowed", "vanished", "appeared")


def range_states(before: Sequence[int], after: Sequence[int], drifted: Drift) -> Mapping[int, str]:
    """Neuron -> what became of its range, one of `STATES`.

    Args:
        before, after: neurons that a method selects for the concept in either audit.
        drifted: how their activations moved.
    """
    old, new = {*before}, {*after}
    moved, widened = drifted.moved, drifted.widened
    found = {}
    for neuron in sorted(old | new):
        if neuron not in new:
            found[neuron] = "vanished"
        elif neuron not in old:
            found[neuron] = "appeared"
        else:
            width = {1: "widened", -1: "narrowed", 0: ""}[int(widened[neuron])]
            words = [*(["moved"] if moved[neuron] else []), *([width] if width else [])]
            found[neuron] = " and ".join(words) or "kept"
    return found
