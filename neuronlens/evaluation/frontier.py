"""The frontier: what a family of methods costs the other concepts at a given drop of the target.

A method that breaks everything has a large target drop too, so methods are compared at a matched one. Each family (its width, its count and
whatever else it leaves free) is walked along a path of settings, from no edit towards larger target drops, that the validation rows
choose. Along the path settings are mixed: applying one to a share of the rows and the next to the others gives every drop in between, in
expectation exactly. The path is then read on the test rows at fixed drops. Accuracy is matched on the accuracy drop, confidence on the
confidence drop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.choice import FAMILIES
from neuronlens.evaluation.matched import LEVELS, Losses, Reading, changes, mean_drop, read_path, spread
from neuronlens.evaluation.methods import Method, by_place
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.uncertainty import stratified_weights

Array = npt.NDArray[np.float64]

MEASURES = ("accuracy", "confidence")
AGAINST = ("paper", "whole")
_SITE = [("site", pa.string()), ("concept", pa.string())]


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
                target, change = changes(validation, concept, [places[i] for i in own], measure)
                # of no rows there is no mean, and so no path
                drops = [mean_drop(change[:, members]) for members in (target, ~target)]
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
