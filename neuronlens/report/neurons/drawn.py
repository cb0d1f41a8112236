"""The most selective neurons: those whose activations on a concept lie furthest from the others' among the ones a method selected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuronlens.artifact import read_table
from neuronlens.streaming.histogram import BINS, Histogram

Counts = npt.NDArray[np.int64]
Row = Mapping[str, Any]

NEURONS = 5
_PLACE = ["site", "concept", "neuron"]


@dataclass(frozen=True)
class Card:
    """One neuron seen by one concept.

    Attributes:
        site, concept, neuron: which.
        d_prime: distance of the means in pooled standard deviations; infinite where both are constant and differ.
        mean, std: of the concept's fit rows. complement_mean, complement_std: of the others'.
        lower, upper: the range, closed; None where only whole neurons were masked.
        dose_target, dose_complement: share of fit rows in the range; None likewise.
        edges: [B + 1] edges of equal bins, shared by both histograms, as many as the rows of all concepts span.
        target, complement: [B] rows of the concept, and of all others.
    """

    site: str
    concept: str
    neuron: int
    d_prime: float
    mean: float
    std: float
    complement_mean: float
    complement_std: float
    lower: float | None
    upper: float | None
    dose_target: float | None
    dose_complement: float | None
    edges: npt.NDArray[np.float64]
    target: Counts
    complement: Counts

    def quantiles(self, q: Sequence[float]) -> list[float]:
        """[Q] of the concept's rows, as the histogram tells them: each off by one bin width at the most."""
        return histogram_quantiles(self.edges, self.target, q)


def histogram_quantiles(edges: npt.NDArray[np.float64], counts: Counts, q: Sequence[float]) -> list[float]:
    """[Q] quantiles of rows that a histogram of the fit counts: each off by one bin width at the most.

    Args:
        edges: [B + 1] of its bins.
        counts: [B].
    """
    width = edges[1] - edges[0]
    every = np.zeros((BINS, 1), dtype=np.int64)
    every[: len(counts), 0] = counts
    exponent, first = round(math.log2(width)), round(edges[0] / width)
    found = Histogram(int(counts.sum()), np.array([exponent]), np.array([first]), every).quantiles(q)
    return [float(value) for value in found[:, 0]]


def most_selective(fit: Path, tau: float | None, limit: int = NEURONS) -> dict[str, list[Card]]:
    """Concept -> its `limit` neurons of highest d' over all sites, among those that range masking selects in any sweep setting.

    Ties go to the site that sorts first, then to the lower index. A range depends on the concept's mean and std and on tau, not on how
    the neuron was ranked, so one range per neuron is all there is to show.

    Args:
        fit: folder of the stage.
        tau: which ranges to show.
    """
    scores = read_table(fit / "statistics.parquet", [*_PLACE, "d_prime"])
    selected = _selected(fit / "ranges.parquet", tau, _PLACE)
    ranked = scores.join(selected.group_by(_PLACE).aggregate([]), _PLACE, join_type="inner").sort_by(
        [("concept", "ascending"), ("d_prime", "descending"), ("site", "ascending"), ("neuron", "ascending")]
    )
    chosen = {
        concept: [
            (row["site"], row["neuron"])
            for row in ranked.filter(pc.field("concept") == concept).slice(0, limit).to_pylist()
        ]
        for concept in ranked["concept"].unique().to_pylist()
    }
    places = sorted({place for found in chosen.values() for place in found})
    rows, ranges = _rows(fit / "statistics.parquet", places), _ranges(fit / "ranges.parquet", tau, places)
    return {
        concept: [_card(rows[place], concept, place, ranges[place[0], concept, place[1]]) for place in found]
        for concept, found in chosen.items()
    }


def _selected(file: Path, tau: float | None, columns: Sequence[str]) -> pa.Table:
    """What range masking at tau selects; whole-neuron masking where tau is None."""
    kind = (pc.field("range") == ("full" if tau is None else "gaussian")) & (pc.field("role") == "sweep")
    table = read_table(file, [*columns, "range", "role", "tau"])
    return table.filter(kind if tau is None else kind & (pc.field("tau") == tau)).select(columns)


def _ranges(file: Path, tau: float | None, places: Sequence[tuple[str, int]]) -> dict[tuple[str, str, int], Row]:
    """(site, concept, neuron) -> its range, for some neurons."""
    table = _selected(file, tau, [*_PLACE, "lower", "upper", "dose_target", "dose_complement"])
    neurons = pa.array(sorted({neuron for _, neuron in places}), pa.int32())
    rows = table.filter(pc.field("neuron").isin(neurons)).to_pylist()
    return {(row["site"], row["concept"], row["neuron"]): row for row in rows}


def _rows(file: Path, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], list[Row]]:
    """The statistics of some neurons, all concepts of each. Histograms are read for these alone: a large audit holds gigabytes of them."""
    columns = [
        *("site", "concept", "neuron", "d_prime", "mean", "std", "complement_mean", "complement_std"),
        *("histogram_low", "histogram_high", "histogram"),
    ]
    found: dict[tuple[str, int], list[Row]] = {place: [] for place in places}
    for site in sorted({site for site, _ in places}):
        neurons = pa.array([neuron for at, neuron in places if at == site], pa.int32())
        wanted = (pc.field("site") == site) & pc.field("neuron").isin(neurons)
        for row in pq.read_table(file, columns=columns, filters=wanted, partitioning=None).to_pylist():
            found[row["site"], row["neuron"]].append(row)
    return found


def _card(rows: Sequence[Row], concept: str, place: tuple[str, int], found: Row) -> Card:
    own = next(row for row in rows if row["concept"] == concept)
    target = np.array(own["histogram"], dtype=np.int64)
    everyone = np.sum([row["histogram"] for row in rows], axis=0, dtype=np.int64)
    spanned = np.flatnonzero(everyone)[-1] + 1  # beyond the largest value there are bins that no row is in
    edges = np.linspace(own["histogram_low"], own["histogram_high"], len(target) + 1)
    whole = not math.isfinite(found["lower"][0])
    return Card(
        place[0],
        concept,
        place[1],
        own["d_prime"],
        own["mean"],
        own["std"],
        own["complement_mean"],
        own["complement_std"],
        None if whole else found["lower"][0],
        None if whole else found["upper"][0],
        None if whole else found["dose_target"],
        None if whole else found["dose_complement"],
        edges[: spanned + 1],
        target[:spanned],
        (everyone - target)[:spanned],
    )


def card_entry(card: Card) -> dict[str, Any]:
    """A card as audit.json holds it; an infinite d' becomes null."""
    return {
        "site": card.site,
        "concept": card.concept,
        "neuron": card.neuron,
        "d_prime": card.d_prime if math.isfinite(card.d_prime) else None,
        "mean": card.mean,
        "std": card.std,
        "complement_mean": card.complement_mean,
        "complement_std": card.complement_std,
        "lower": card.lower,
        "upper": card.upper,
        "dose_target": card.dose_target,
        "dose_complement": card.dose_complement,
        "histogram": {
            "low": float(card.edges[0]),
            "high": float(card.edges[-1]),
            "target": card.target.tolist(),
            "complement": card.complement.tolist(),
        },
    }


def cards_of(audit: Row) -> dict[str, list[Card]]:
    """Concept -> its cards, read back from audit.json."""
    found: dict[str, list[Card]] = {}
    for entry in audit["neurons"]:
        histogram = entry["histogram"]
        target, complement = (np.array(histogram[name], dtype=np.int64) for name in ("target", "complement"))
        numbers = {name: value for name, value in entry.items() if name not in ("histogram", "d_prime")}
        card = Card(
            **numbers,
            d_prime=math.inf if entry["d_prime"] is None else entry["d_prime"],
            edges=np.linspace(histogram["low"], histogram["high"], len(target) + 1),
            target=target,
            complement=complement,
        )
        found.setdefault(card.concept, []).append(card)
    return found
