"""Layers against concepts: how selective the edit is, how alike concepts are there, and how often the edit acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from neuronlens.evaluation.summary import Setting
from neuronlens.report.table import main_summaries

Row = Mapping[str, Any]

LEVELS = 10
"""Shades of a cell."""


HEATMAP_WORDS = {
    "selectivity": ("Selectivity", "Drop on the concept minus drop on the others, in points."),
    "overlap": (
        "Overlap",
        "How much of its histogram a selected neuron shares with that of another concept, in percent: the mean over the neurons of the "
        "first setting and the other concepts. Where it is high, no range can tell the concepts apart.",
    ),
    "target_gate": ("Gate rate on the target", "Activations on rows of the concept that the edit changes, in percent."),
    "complement_gate": ("Gate rate on the others", "Activations on all other rows that the edit changes, in percent."),
}
"""Name of a heatmap -> its title and what its numbers are."""


@dataclass(frozen=True)
class Cell:
    """A number with its shade, 0 to `LEVELS` - 1; both None where it was not measured."""

    value: float | None
    shade: int | None


@dataclass(frozen=True)
class Heatmap:
    """A measure at every site for every concept.

    Attributes:
        name: `selectivity`, `overlap`, `target_gate`, `complement_gate`.
        sites: of the columns.
        rows: concept -> a cell for each site.
    """

    name: str
    sites: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]


def overlap_rows(fit: Path, setting: Setting) -> list[dict[str, Any]]:
    """Mean overlap of the histograms of a concept and of every other, over the neurons that a setting selects for the concept.

    Args:
        fit: folder of the stage.
        setting: whose ranking and share select the neurons.

    Returns:
        `site`, `concept`, `overlap` (0: no two values in one bin, 1: alike); none where the fit has no such table.
    """
    overlap, ranges = fit / "overlap.parquet", fit / "ranges.parquet"
    if not overlap.exists():
        return []
    query = """
        with pairs as (
            select site, concept, neuron, histogram_overlap as shared from read_parquet($overlap)
            union all
            select site, other, neuron, histogram_overlap from read_parquet($overlap)
        ), selected as (
            select distinct site, concept, neuron from read_parquet($ranges)
            where role = 'sweep' and saliency = $saliency and top = $top and range in ('gaussian', 'full')
        )
        select site, concept, avg(shared) from pairs semi join selected using (site, concept, neuron)
        group by site, concept order by site, concept
    """
    given = {"overlap": str(overlap), "ranges": str(ranges), "saliency": setting.saliency, "top": setting.top}
    with duckdb.connect(
        config={"threads": 1}
    ) as connection:  # one thread: the order of a sum is part of its last digits
        found = connection.execute(query, given).fetchall()
    return [{"site": site, "concept": concept, "overlap": value} for site, concept, value in found]


def heatmaps(audit: Row) -> list[Heatmap]:
    """Of the tuned method, or of the first setting's ranges where nothing was tuned; those of which something is known."""
    sites = [row["site"] for row in audit["sites"]]
    concepts = [row["concept"] for row in audit["base"]["concepts"]]
    method = heatmap_method(audit)
    if method is None:
        return []
    own = {
        (row["site"], row["concept"]): row
        for row in audit["results"]
        if (row["method"], row["role"]) == (method["method"], method["role"])
    }
    overlap = {(row["site"], row["concept"]): row["overlap"] for row in audit["overlap"]}
    measured = {
        "selectivity": {place: row["selectivity"] for place, row in own.items()},
        "overlap": overlap,
        "target_gate": {place: row["dose_target"] for place, row in own.items()},
        "complement_gate": {place: row["dose_complement"] for place, row in own.items()},
    }
    return [
        Heatmap(name, sites, {concept: [_cell(values.get((site, concept))) for site in sites] for concept in concepts})
        for name, values in measured.items()
        if any(value is not None for value in values.values())
    ]


def heatmap_method(audit: Row) -> Row | None:
    """The row of `summary` whose method the heatmaps are of."""
    rows = list(main_summaries(audit))
    return next((row for row in rows if row["kind"] == "tuned"), rows[0] if rows else None)


def _cell(value: float | None) -> Cell:
    if value is None:
        return Cell(None, None)
    return Cell(value, min(LEVELS - 1, max(0, int(value * LEVELS))))
