"""How one neuron behaves on each concept: its activations, the ranges in it, and its rank by every saliency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuronlens.errors import UserError, did_you_mean
from neuronlens.report.neurons.place import rows_at, table_at
from neuronlens.values import Saliency

Row = Mapping[str, Any]

SET_OF_RANGES = ("concept", "saliency", "top", "range", "base", "tau", "threshold", "gate")
"""What tells one set of ranges at a site from another, alike in ranges.parquet and in the results of its edit; beside it the role."""


@dataclass(frozen=True)
class Score:
    """One saliency of the neuron for a concept.

    Attributes:
        saliency: which.
        value: the score; infinite d' where the neuron is constant on both groups and they differ.
        rank: among the site's neurons, from 1; of equal scores the lower neuron comes first.
    """

    saliency: str
    value: float
    rank: int


@dataclass(frozen=True)
class Range:
    """Where an edit acts.

    Attributes:
        setting: the method, such as `mean ± 2 std`, or as `setting` of chosen.parquet.
        lower, upper: bounds of its closed intervals; infinite for a whole neuron.
        dose_target, dose_complement: share of fit rows that are edited, of the concept and of the others; None where the neuron is in no
            top set of this range.
    """

    setting: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    dose_target: float | None
    dose_complement: float | None


@dataclass(frozen=True)
class ConceptActivations:
    """How the neuron behaves on a concept's fit rows.

    Attributes:
        concept: which.
        n, mean, std: of its rows.
        counts: rows per bin of the card.
        gaussian: mean ± tau std at the tau that findings speak of; None where no such range was asked for.
        tuned: what the validation rows chose; None where nothing was tuned, or the chosen edit leaves this neuron alone.
        scores: by every saliency that was computed.
    """

    concept: str
    n: int
    mean: float
    std: float
    counts: tuple[int, ...]
    gaussian: Range | None
    tuned: Range | None
    scores: tuple[Score, ...]

    def score(self, saliency: str) -> Score:
        """By one saliency.

        Raises:
            UserError: it was not computed.
        """
        known = {score.saliency: score for score in self.scores}
        if saliency not in known:
            raise UserError(f"no saliency {saliency!r} of neurons is known", cure=did_you_mean(saliency, known))
        return known[saliency]


def concepts_at(
    folder: Path, document: Row, own: Row, neuron: int, ranges: Sequence[Row]
) -> tuple[tuple[ConceptActivations, ...], tuple[float, float]]:
    """Every concept's view, and the outer edges of the bins that rows span."""
    file, site = folder / "fit" / "statistics.parquet", own["site"]
    columns = ("concept", "n", "mean", "std", "histogram_low", "histogram_high", "histogram")
    rows = sorted(rows_at(file, columns, site, neuron), key=lambda row: str(row["concept"]))
    scores = _scores(file, site, neuron)
    everyone = np.sum([row["histogram"] for row in rows], axis=0)
    spanned = int(np.flatnonzero(everyone)[-1]) + 1
    low, high = rows[0]["histogram_low"], rows[0]["histogram_high"]
    tau = document["settings"][0]["tau"] if document["settings"] else None
    chosen = {row["concept"]: row for row in document["results"] if _is_tuned(row, site)}
    found = [
        ConceptActivations(
            row["concept"],
            row["n"],
            row["mean"],
            row["std"],
            tuple(row["histogram"][:spanned]),
            None if tau is None else _gaussian(row, tau, ranges),
            _tuned(chosen.get(row["concept"]), ranges),
            scores[row["concept"]],
        )
        for row in rows
    ]
    return tuple(found), (low, low + spanned * (high - low) / len(everyone))


def _scores(file: Path, site: str, neuron: int) -> dict[str, tuple[Score, ...]]:
    """Concept -> scores and ranks of a neuron."""
    held = set(pq.read_schema(file).names)  # an audit of before a saliency was added has no column of it
    known = [name for name in get_args(Saliency) if name in held]
    table = table_at(file, ("concept", "neuron", *known), site)
    found = {}
    for concept in table["concept"].unique().to_pylist():
        part = table.filter(pc.field("concept") == concept).sort_by("neuron")
        columns = {name: part[name].to_numpy() for name in known if part[name].null_count == 0}
        found[concept] = tuple(
            Score(name, float(column[neuron]), _rank(column, neuron)) for name, column in columns.items()
        )
    return found


def _rank(scores: npt.NDArray[np.float64], neuron: int) -> int:
    """Place in the order of `neuronlens.ranges.saliency.top_set`, from 1."""
    own = scores[neuron]
    return 1 + int((scores > own).sum()) + int((scores[:neuron] == own).sum())


def _gaussian(row: Row, tau: float, ranges: Sequence[Row]) -> Range:
    lower, upper = (float(np.float32(row["mean"] + sign * tau * row["std"])) for sign in (-1, 1))
    # the range of a neuron does not depend on the ranking that selects it
    same = next(
        (
            one
            for one in ranges
            if (one["concept"], one["role"], one["range"], one["tau"]) == (row["concept"], "sweep", "gaussian", tau)
        ),
        {"dose_target": None, "dose_complement": None},
    )
    return Range(f"mean ± {tau:g} std", (lower,), (upper,), same["dose_target"], same["dose_complement"])


def _tuned(chosen: Row | None, ranges: Sequence[Row]) -> Range | None:
    if chosen is None:
        return None
    for row in ranges:
        if row["role"] == "tuned" and all(row[name] == chosen[name] for name in SET_OF_RANGES):
            held = [pair for pair in zip(row["lower"], row["upper"], strict=True) if pair[0] <= pair[1]]
            lower, upper = (tuple(ends) for ends in zip(*held, strict=True)) if held else ((), ())
            return Range(chosen["setting"], lower, upper, row["dose_target"], row["dose_complement"])
    return None


def _is_tuned(row: Row, site: str) -> bool:
    return (row["site"], row["role"], row["method"]) == (site, "chosen", "tuned")
