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
from neuronlens.evaluation.uncertainty import interval, stratified_weights

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
class _Reading:
    """A family at all levels: the complement's drop, and the log of the perplexity ratio; [L, R + 1], the rows as they are come first.

    NaN where the family does not reach the level.
    """

    complement: Array
    log_perplexity: Array
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
        resamples, seed: bootstrap over the test rows within each concept, and over documents. Paths stay as they are; a resample in which
            a path does not reach a level is left out of that level's interval.
        families: name -> which methods belong to it.
        family, against: which of them is compared, in the place of the tuned method, and with which.
    """
    (tried, tried_at), (judged, judged_at) = validation, test
    weights = stratified_weights(judged.truth, resamples, seed).astype(np.float64)
    documents = None if losses is None else _document_weights(losses, resamples, seed)
    frontier: list[dict[str, Any]] = []
    matched: list[dict[str, Any]] = []
    paths = walked(methods, tried, tried_at, families)
    for site in sorted({str(method.ranges.site) for method in methods}):
        for measure in MEASURES:
            readings: dict[str, dict[str, _Reading]] = {name: {} for name in families}
            for name, concept in product(families, judged.concepts):
                if (site, concept, name, measure) in paths:
                    path = paths[site, concept, name, measure]
                    places = [judged_at[i] for i in path]
                    readings[name][concept] = _read(
                        _drops(judged, concept, places, measure, weights),
                        None if losses is None else _log_ratios(losses, places, documents),
                        [methods[i].name for i in path],
                    )
            frontier += [
                row
                for name, found in readings.items()
                for concept, reading in found.items()
                for row in _rows(site, concept, name, measure, reading)
            ]
            for other in against:
                matched += _differences(site, measure, other, readings[family], readings[other])
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
                drops = _drops(validation, concept, [places[i] for i in own], measure, None)
                found[site, concept, name, measure] = [own[i] for i in _path(*drops[:, :, 0])]
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


def _drops(scores: RowScores, concept: str, index: Sequence[int], measure: str, weights: Array | None) -> Array:
    """[2, m, R + 1] drops on target and complement of some edits: as the rows are, then resampled.

    NaN where there are no rows.
    """
    values = scores.correct if measure == "accuracy" else scores.confidence
    change = values[0].astype(np.float64) - values[list(index)].astype(np.float64)
    target = scores.truth == scores.concepts.index(concept)
    ones = np.ones((1, len(target)))
    drawn = ones if weights is None else np.concatenate([ones, weights])
    found = []
    for group in (target, ~target):
        total = drawn[:, group].sum(axis=1)
        found.append(change[:, group] @ drawn[:, group].T / np.where(total > 0, total, np.nan))
    return np.stack(found)


def _log_ratios(losses: Losses, index: Sequence[int], weights: Array | None) -> Array:
    """[m, R + 1] log perplexity minus that of the unedited model."""
    ones = np.ones((1, len(losses.predicted)))
    drawn = ones if weights is None else np.concatenate([ones, weights])
    change = losses.losses[list(index)] - losses.losses[0]
    return np.asarray(change @ drawn.T / (drawn @ losses.predicted))


def _document_weights(losses: Losses, resamples: int, seed: int) -> Array:
    """[R, N] how often each document is drawn."""
    count = len(losses.predicted)
    generator = np.random.default_rng([seed, count, 2])
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def _read(drops: Array, log_ratios: Array | None, names: Sequence[str]) -> _Reading:
    """A path [2, m, R + 1] read at the levels, by linear interpolation between neighbours, from (0, 0) on."""
    target, complement = drops
    resamples = target.shape[1]
    silent = np.full((len(names), resamples), np.nan) if log_ratios is None else log_ratios
    found = np.full((2, len(LEVELS), resamples), np.nan)
    settings = [""] * len(LEVELS)
    for place, level in enumerate(LEVELS):
        x, y, z = np.zeros(resamples), np.zeros(resamples), np.zeros(resamples)
        open_ = np.ones(resamples, dtype=bool)
        before = "unedited"
        for i, name in enumerate(names):
            crosses = open_ & (target[i] >= level)
            share = np.divide(level - x, target[i] - x, out=np.ones(resamples), where=target[i] > x)
            found[0, place, crosses] = (y + share * (complement[i] - y))[crosses]
            found[1, place, crosses] = (z + share * (silent[i] - z))[crosses]
            if crosses[0]:
                settings[place] = (
                    name if share[0] > 1 - 1e-9 else f"{1 - share[0]:.2f} {before} + {share[0]:.2f} {name}"
                )
            open_ &= ~crosses
            # a setting that takes less from the target than the one before it is passed over
            further = open_ & (target[i] > x)
            before = name if further[0] else before
            x, y, z = (np.where(further, new, old) for new, old in ((target[i], x), (complement[i], y), (silent[i], z)))
    return _Reading(found[0], found[1], tuple(settings))


def _rows(site: str, concept: str, family: str, measure: str, reading: _Reading) -> list[dict[str, Any]]:
    rows = []
    for place, level in enumerate(LEVELS):
        row = {"site": site, "concept": concept, "family": family, "measure": measure, "target_drop": level}
        row |= _spread("complement_drop", reading.complement[place]) | _spread(
            "log_perplexity", reading.log_perplexity[place]
        )
        rows.append(
            row | {"reached": bool(np.isfinite(reading.complement[place, 0])), "settings": reading.settings[place]}
        )
    return rows


def _differences(
    site: str, measure: str, other: str, tuned: dict[str, _Reading], against: dict[str, _Reading]
) -> list[dict[str, Any]]:
    """Tuned minus another family, mean over the concepts in which both reach the level. Selectivity gains what the complement is spared."""
    rows = []
    for place, level in enumerate(LEVELS):
        both = [
            concept
            for concept in tuned
            if concept in against
            and np.isfinite([part[concept].complement[place, 0] for part in (tuned, against)]).all()
        ]
        row: dict[str, Any] = {"site": site, "measure": measure, "against": other, "target_drop": level}
        row["concepts"] = len(both)
        row["method_reaches"] = sum(bool(np.isfinite(part.complement[place, 0])) for part in tuned.values())
        row["other_reaches"] = sum(bool(np.isfinite(part.complement[place, 0])) for part in against.values())
        for name, sign in (("complement", -1), ("log_perplexity", 1)):
            column = "selectivity" if name == "complement" else name
            if not both:
                row |= _spread(column, np.array([np.nan]))
                continue
            parts = [
                sign * (getattr(tuned[concept], name)[place] - getattr(against[concept], name)[place])
                for concept in both
            ]
            # a resample in which a concept misses the level says nothing of that concept; the others still count
            stacked = np.array(parts)
            known = np.isfinite(stacked)
            means = np.where(known, stacked, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
            row |= _spread(column, means)
        rows.append(row)
    return rows


def _spread(name: str, values: Array) -> dict[str, float | None]:
    """Value and 95 % interval of [R + 1] readings; None where the rows themselves do not reach the level."""
    if not np.isfinite(values[0]):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = interval(drawn) if len(drawn) else (np.nan, np.nan)
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def _numbers(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


def _frontier_schema() -> pa.Schema:
    return pa.schema(
        [
            *_SITE,
            *((name, pa.string()) for name in ("family", "measure")),
            ("target_drop", pa.float64()),
            ("reached", pa.bool_()),
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
