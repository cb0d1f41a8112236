"""The frontier: what a family of methods costs the other concepts at a given drop of the target.

A method that breaks everything has a large target drop too, so methods are compared at a matched one. Each family (its width, its count and
whatever else it leaves free) is walked along a path of settings, from no edit towards larger target drops, that the validation rows
choose. Along the path settings are mixed: applying one to a share of the rows and the next to the others gives every drop in between, in
expectation exactly. The path is then read on the test rows at fixed drops. Accuracy is matched on the accuracy drop, confidence on the
confidence drop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.choice import FAMILIES
from neuronlens.evaluation.methods import Method, by_place
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.uncertainty import stratified_weights, total

Array = npt.NDArray[np.float64]

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
MEASURES = ("accuracy", "confidence")
AGAINST = ("paper", "whole")
_SITE = [("site", pa.string()), ("concept", pa.string())]


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


def frontier_tables(
    methods: Sequence[Method],
    validation: tuple[RowScores, Sequence[int]],
    test: tuple[RowScores, Sequence[int]],
    losses: Losses | None,
    *,
    resamples: int,
    seed: int,
    families: Mapping[str, Callable[[Method], bool]] = FAMILIES,
    family: str = "tuned",
    against: Sequence[str] = AGAINST,
) -> tuple[pa.Table, pa.Table]:
    """frontier.parquet: one row per (site, concept, family, measure, level); matched.parquet: tuned minus another family, over concepts.

    Args:
        methods: those of all families.
        validation, test: scores, and the index of each method's edit in them, from 1.
        losses: of auxiliary text under the edits of `test`, None where there is none.
        resamples, seed: bootstrap over the target's test rows, behind `reached_share`.
        families: name -> which methods belong to it.
        family, against: which of them is compared, in the place of the tuned method, and with which.
    """
    (tried, tried_at), (judged, judged_at) = validation, test
    weights = stratified_weights(judged.truth, resamples, seed).astype(np.float64)
    frontier: list[dict[str, Any]] = []
    matched: list[dict[str, Any]] = []
    paths = walked(methods, tried, tried_at, families)
    for site in sorted({str(method.ranges.site) for method in methods}):
        for measure in MEASURES:
            readings: dict[str, dict[str, Reading]] = {name: {} for name in families}
            for name, concept in product(families, judged.concepts):
                if (site, concept, name, measure) in paths:
                    path = paths[site, concept, name, measure]
                    places, names = [judged_at[i] for i in path], [methods[i].name for i in path]
                    readings[name][concept] = read_path(judged, concept, measure, places, losses, weights, names)
            frontier += [
                row
                for name, found in readings.items()
                for concept, reading in found.items()
                for row in _rows(site, concept, name, measure, reading, judged.truth)
            ]
            for other in against:
                matched += _differences(site, measure, other, readings[family], readings[other], judged.truth)
    return pa.Table.from_pylist(frontier, schema=_frontier_schema()), pa.Table.from_pylist(
        matched, schema=_matched_schema()
    )


def walked(
    methods: Sequence[Method],
    validation: RowScores,
    places: Sequence[int],
    families: Mapping[str, Callable[[Method], bool]] = FAMILIES,
) -> dict[tuple[str, str, str, str], list[int]]:
    """(site, concept, family, measure) -> places of the methods on that path, in the order they are walked.

    Args:
        validation, places: scores, and the index of each method's edit in them, from 1.
    """
    found = {}
    for ((site, concept), here), (name, belongs) in product(by_place(methods).items(), families.items()):
        own = [i for i in here if belongs(methods[i])]
        if own:
            for measure in MEASURES:
                target, change = _changes(validation, concept, [places[i] for i in own], measure)
                # of no rows there is no mean, and so no path
                drops = [_mean(change[:, members]) for members in (target, ~target)]
                found[site, concept, name, measure] = [own[i] for i in _path(*drops)]
    return found


def _path(target: Array, complement: Array) -> list[int]:
    """Settings in the order they are walked: from no edit, always to the one that costs the complement least per point of target drop.

    Args:
        target, complement: [m] drops on the validation rows.
    """
    path: list[int] = []
    x = y = 0.0
    while True:
        ahead = np.flatnonzero(target > x + 1e-9)
        if not len(ahead):
            return path
        slope = (complement[ahead] - y) / (target[ahead] - x)
        # of equal slopes the farthest, which takes the fewest steps
        at = int(ahead[np.lexsort((-target[ahead], np.round(slope, 9)))[0]])
        path.append(at)
        x, y = float(target[at]), float(complement[at])


def _changes(
    scores: RowScores, concept: str, index: Sequence[int], measure: str
) -> tuple[npt.NDArray[np.bool_], Array]:
    """[N] which rows are the concept's, and [m, N] the drop of each row under some edits."""
    values = scores.correct if measure == "accuracy" else scores.confidence
    change = values[0].astype(np.float64) - values[list(index)].astype(np.float64)
    return scores.truth == scores.concepts.index(concept), change


def _mean(change: Array) -> Array:
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
    own, change = _changes(scores, concept, places, measure)
    target, complement = _mean(change[:, own]), _mean(change[:, ~own])
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


def _rows(
    site: str, concept: str, family: str, measure: str, reading: Reading, truth: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    rows = []
    parts = zip(LEVELS, reading.points, reading.reached_share, reading.settings, strict=True)
    for level, point, share, settings in parts:
        row = {"site": site, "concept": concept, "family": family, "measure": measure, "target_drop": level}
        row |= {"reached": point is not None, "reached_share": float(share), "settings": settings}
        rows.append(row | spread("complement_drop", measure, [] if point is None else [point], [], truth))
    return rows


def _differences(
    site: str,
    measure: str,
    other: str,
    tuned: dict[str, Reading],
    against: dict[str, Reading],
    truth: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Tuned minus another family, mean over the concepts in which both reach the level. Selectivity gains what the complement is spared."""
    rows = []
    for place, level in enumerate(LEVELS):
        own, theirs = ({name: found[name].points[place] for name in found} for found in (tuned, against))
        pairs = [
            (point, rival)
            for name, point in own.items()
            if point is not None and (rival := theirs.get(name)) is not None
        ]
        row: dict[str, Any] = {"site": site, "measure": measure, "against": other, "target_drop": level}
        row |= {"concepts": len(pairs)}
        row |= {
            f"{who}_reaches": sum(point is not None for point in found.values())
            for who, found in (("method", own), ("other", theirs))
        }
        firsts, seconds = [point for point, _ in pairs], [point for _, point in pairs]
        rows.append(row | spread("selectivity", measure, firsts, seconds, truth))
    return rows


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


def _numbers(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


def _frontier_schema() -> pa.Schema:
    return pa.schema(
        [
            *_SITE,
            *((name, pa.string()) for name in ("family", "measure")),
            ("target_drop", pa.float64()),
            ("reached", pa.bool_()),
            ("reached_share", pa.float64()),
            *_numbers("complement_drop", "log_perplexity"),
            ("settings", pa.string()),
        ]
    )


def _matched_schema() -> pa.Schema:
    return pa.schema(
        [
            *((name, pa.string()) for name in ("site", "measure", "against")),
            ("target_drop", pa.float64()),
            *((name, pa.int32()) for name in ("concepts", "method_reaches", "other_reaches")),
            *_numbers("selectivity", "log_perplexity"),
        ]
    )
