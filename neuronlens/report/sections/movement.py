"""How neurons and their ranges moved since the audit before, as pages show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.changes import dumbbells
from neuronlens.pages.figures.densities import gaussians
from neuronlens.report.view import CONCEPTS_DRAWN, spread

Row = Mapping[str, Any]

NEURONS_DRAWN = 12


@dataclass(frozen=True)
class RangesPanel:
    """The ranges of a concept that moved farthest at a site."""

    site: str
    concept: str
    rows: Sequence[Row]
    figure: Figure


@dataclass(frozen=True)
class NeuronPanel:
    """A neuron's activations on a concept's rows, before and after."""

    row: Row
    figure: Figure


@dataclass(frozen=True)
class Movement:
    """The section of the page.

    Attributes:
        drift: a row per site and concept.
        ranges: panels of the concepts drawn.
        concepts: how many there are.
        neurons: those that moved farthest.
    """

    drift: Sequence[Row]
    ranges: Sequence[RangesPanel]
    concepts: int
    neurons: Sequence[NeuronPanel]


def movement(comparison: Row) -> Movement:
    """From comparison.json; ranges are shown at the deepest site that has some."""
    rows = comparison["movements"]
    deepest = next((site for site in reversed(comparison["sites"]) if any(row["site"] == site for row in rows)), None)
    own = [row for row in rows if row["site"] == deepest]
    concepts = list(dict.fromkeys(row["concept"] for row in own))
    panels = []
    for concept in spread(concepts, CONCEPTS_DRAWN):
        panels.append(ranges_panel(comparison, str(deepest), concept))
    # a constant that became another lies infinitely far away, for which JSON has no number
    moved = [
        row | {"wasserstein": math.inf if row["wasserstein"] is None else row["wasserstein"]}
        for row in comparison["farthest"]
    ]
    farthest = sorted(moved, key=lambda row: -row["wasserstein"])[:NEURONS_DRAWN]
    return Movement(
        comparison["drift"],
        panels,
        len(concepts),
        [
            NeuronPanel(row, gaussians((row["mean_before"], row["std_before"]), (row["mean_after"], row["std_after"])))
            for row in farthest
        ],
    )


def ranges_panel(comparison: Row, site: str, concept: str) -> RangesPanel:
    """Of one concept at a site."""
    rows = [row for row in comparison["movements"] if (row["site"], row["concept"]) == (site, concept)]
    return RangesPanel(site, concept, rows, dumbbells(_intervals(rows)))


def _intervals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """In pooled stds from the mean before, so that neurons of any size share an axis."""
    return [
        {
            "place": place,
            "when": when,
            "low": (row[f"lower_{when}"] - row["mean_before"]) / row["unit"],
            "high": (row[f"upper_{when}"] - row["mean_before"]) / row["unit"],
        }
        for place, row in enumerate(rows, 1)
        for when in ("before", "after")
        if row[f"lower_{when}"] is not None
    ]
