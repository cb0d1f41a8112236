"""Points at a matched target drop: where a path of settings lies there, and how far other rows or documents would have put it.

Neighbouring settings are mixed to reach the drop exactly. What a mixture costs is nearly a sum over rows and documents: the shares follow
the target's rows, so each of them moves the point along the path, and each of the others moves it across. Its interval is that of this
sum; `python -m benchmarks.coverage` says how often it covers. Percentiles of resamples would leave out those that miss the drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.uncertainty import total

Array = npt.NDArray[np.float64]

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Losses:
    """Of auxiliary documents, unedited (index 0) and under each edit.

    Attributes:
        losses: [M + 1, N] nats.
        predicted: [N] tokens.
    """

    losses: Array
    predicted: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """A family at one level, on the rows as they are, and what single rows and documents contribute to where it lies.

    Attributes:
        complement: drop of the complement there.
        rows: [N] by how much that moves with each test row, to first order.
        unseen: by how much a row would move it that changes as no row has.
        log_perplexity: log of the perplexity ratio, None without auxiliary text.
        rows_of_perplexity, documents: [N] and [A], by how much that moves with each test row and each document.
        mix: index of each setting mixed, and its share.
    """

    complement: float
    rows: Array
    unseen: float
    log_perplexity: float | None
    rows_of_perplexity: Array
    documents: Array
    mix: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Reading:
    """A family at all levels; None where it does not reach one.

    Attributes:
        points: [L].
        reached_share: [L] share of resamples of the target rows in which it does.
        settings: [L] what is mixed, in words.
    """

    points: tuple[Point | None, ...]
    reached_share: Array
    settings: tuple[str, ...]


def changes(scores: RowScores, concept: str, index: Sequence[int], measure: str) -> tuple[npt.NDArray[np.bool_], Array]:
    """[N] which rows are the concept's, and [m, N] the drop of each row under some edits."""
    values = scores.correct if measure == "accuracy" else scores.confidence
    change = values[0].astype(np.float64) - values[list(index)].astype(np.float64)
    return scores.truth == scores.concepts.index(concept), change


def mean_drop(change: Array) -> Array:
    """[m] over rows [m, n]; NaN where there are none."""
    return change.mean(axis=1) if change.shape[1] else np.full(len(change), np.nan)


def read_path(
    scores: RowScores,
    concept: str,
    measure: str,
    places: Sequence[int],
    losses: Losses | None,
    weights: Array,
    names: Sequence[str],
) -> Reading:
    """A path read at the levels, by linear interpolation between neighbours, from no edit on.

    Args:
        places: of the path's settings in the scores and losses.
        weights: [R, N] resamples of the rows.
        names: of the settings.
    """
    own, change = changes(scores, concept, places, measure)
    target, complement = mean_drop(change[:, own]), mean_drop(change[:, ~own])
    drawn = weights[:, own]
    farthest = (change[:, own] @ drawn.T).max(axis=0, initial=-np.inf) / max(int(own.sum()), 1)
    points: list[Point | None] = []
    words: list[str] = []
    for level in LEVELS:
        mix = _mixed(target, level) if np.isfinite(complement).all() else None
        points.append(None if mix is None else _point(mix, own, change, places, losses))
        words.append("" if mix is None else _in_words(mix, names))
    return Reading(tuple(points), np.array([float((farthest >= level).mean()) for level in LEVELS]), tuple(words))


def _mixed(target: Array, level: float) -> list[tuple[int, float]] | None:
    """The neighbours on a path of target drops [m] between which a level lies, with their shares; -1 is no edit. None beyond its end."""
    at, before = 0.0, -1
    for i, drop in enumerate(target):
        if drop >= level:
            share = (level - at) / (drop - at)
            return [(before, 1 - share), (i, share)]
        if drop > at:  # a setting that takes less from the target than the one before it is passed over
            at, before = float(drop), i
    return None


def _in_words(mix: Sequence[tuple[int, float]], names: Sequence[str]) -> str:
    (before, rest), (after, share) = mix
    if share > 1 - 1e-9:
        return names[after]
    return f"{rest:.2f} {'unedited' if before < 0 else names[before]} + {share:.2f} {names[after]}"


def _point(
    mix: Sequence[tuple[int, float]],
    own: npt.NDArray[np.bool_],
    change: Array,
    places: Sequence[int],
    losses: Losses | None,
) -> Point:
    """Where a mixture lies. Its shares follow the rows' target drops, so that every target row moves it along the path."""

    target, complement = change[:, own].mean(axis=1), change[:, ~own].mean(axis=1)
    (before, _), (after, _) = mix

    def mixed(values: Array) -> Array:
        return np.asarray(sum((share * values[i] for i, share in mix if i >= 0), np.zeros(values.shape[1:])))

    def slope(values: Array) -> float:
        """By how much something rises along the path for each point of target drop."""
        rise, run = (part[after] - (part[before] if before >= 0 else 0.0) for part in (values, target))
        return float(rise / run)

    drops = mixed(change)
    rows = np.where(own, -slope(complement) * drops / own.sum(), drops / (~own).sum())
    used = tuple((places[i], share) for i, share in mix if i >= 0 and share > 0)
    unseen = float(1 / (~own).sum())
    if losses is None:
        return Point(float(mixed(complement)), rows, unseen, None, np.zeros_like(rows), np.zeros(0), used)
    tokens = losses.predicted.sum()
    costs = losses.losses[list(places)] - losses.losses[0]
    ratios = costs.sum(axis=1) / tokens
    documents = (mixed(costs) - mixed(ratios) * losses.predicted) / tokens
    along = np.where(own, -slope(ratios) * drops / own.sum(), 0.0)
    return Point(float(mixed(complement)), rows, unseen, float(mixed(ratios)), along, documents, used)


def spread(
    name: str, measure: str, points: Sequence[Point], minus: Sequence[Point], truth: npt.NDArray[np.int64]
) -> dict[str, float | None]:
    """The columns of a mean over concepts, of points or of their differences: value and 95 % limits, and those of the perplexity.

    A drop that the complement is spared counts as selectivity gained, so differences of it are turned round.
    """
    found: dict[str, float | None] = {}
    for column in (name, "log_perplexity"):
        found |= dict.fromkeys((column, f"{column}_low", f"{column}_high"))
    if not points:
        return found
    # the same mixture of the same settings is the same edit, whatever rows are drawn
    same = bool(minus) and all(one.mix == two.mix for one, two in zip(points, minus, strict=True))
    unseen = max(point.unseen for point in points) / len(points) if measure == "accuracy" and not same else 0.0
    sign = -1.0 if minus else 1.0
    value, rows = (_mean_over(part, points, minus, sign) for part in (lambda p: p.complement, lambda p: p.rows))
    found |= _limits(name, float(value), rows, np.zeros(0), truth, unseen, 2.0 if minus else 1.0)
    if all(point.log_perplexity is not None for point in points):
        value, rows, documents = (
            _mean_over(part, points, minus, 1.0)
            for part in (lambda p: p.log_perplexity, lambda p: p.rows_of_perplexity, lambda p: p.documents)
        )
        found |= _limits("log_perplexity", float(value), rows, documents, truth, 0.0, np.inf)
    return found


def _mean_over(
    part: Callable[[Point], Any], points: Sequence[Point], minus: Sequence[Point], sign: float
) -> npt.NDArray[Any]:
    """Mean over concepts of a part, or of its differences pair by pair, so that equal pairs leave exactly nothing."""
    pairs = zip(points, minus, strict=True) if minus else ((point, None) for point in points)
    parts = [part(one) if two is None else part(one) - part(two) for one, two in pairs]
    return np.asarray(sign * sum(parts) / len(parts))


def _limits(
    name: str,
    value: float,
    rows: Array,
    documents: Array,
    truth: npt.NDArray[np.int64],
    unseen: float,
    bound: float,
) -> dict[str, float | None]:
    """Value and 95 % limits, documents being one more stratum of what could have been drawn."""
    parts, strata = np.concatenate([rows, documents]), np.concatenate([truth, np.full(len(documents), -1)])
    around = total(parts[None], strata, unseen)
    ends = [value + float(end[0] - around.value[0]) for end in (around.low, around.high)]
    low, high = (float(np.clip(end, -bound, bound)) for end in ends)
    names = (name, f"{name}_low", f"{name}_high")
    # a single row or document says nothing of its spread, and so nothing can be said
    return dict(zip(names, (value, low, high), strict=True)) if np.isfinite([low, high]).all() else dict.fromkeys(names)
