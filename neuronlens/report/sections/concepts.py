"""Concept by concept: the main methods at a site as a chart each, a point a concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.effects import Ends, effects
from neuronlens.report.table import is_main, main_summaries
from neuronlens.report.view import SITES_DRAWN, spread

Row = Mapping[str, Any]

NUMBERED = 24
"""Concepts beyond this many have no number beside their point: they could not be read."""


@dataclass(frozen=True)
class ConceptPanel:
    """A method at a site: its chart, its row of `summary`, and its concepts' rows in the order of their numbers."""

    method: Row
    figure: Figure
    rows: Sequence[Row]


def concept_numbers(audit: Row) -> dict[str, int]:
    """Concept -> the number beside its points."""
    return {row["concept"]: place for place, row in enumerate(audit["base"]["concepts"], 1)}


def concept_panels(audit: Row) -> dict[str, list[ConceptPanel]]:
    """Site -> a panel for each main method, all on the same axes; the deepest site first."""
    numbers = concept_numbers(audit)
    own = [row for row in audit["results"] if is_main(row, audit)]
    found: dict[str, list[tuple[Row, list[Row]]]] = {}
    for site in reversed(spread([row["site"] for row in audit["sites"]], SITES_DRAWN)):
        for method in main_summaries(audit):
            rows = [
                row
                for row in own
                if row["site"] == method["site"] == site and all(row[key] == method[key] for key in ("method", "role"))
            ]
            if rows:
                found.setdefault(site, []).append((method, sorted(rows, key=lambda row: numbers[row["concept"]])))
    drawn = [row for panels in found.values() for _, rows in panels for row in rows]
    x, y = _ends(drawn, "complement"), _ends(drawn, "target")
    return {
        site: [
            ConceptPanel(method, effects([_point(row, method, numbers, x, y) for row in rows], x, y), rows)
            for method, rows in panels
        ]
        for site, panels in found.items()
    }


def _ends(rows: Sequence[Row], group: str) -> Ends:
    """What an axis holds: all points, and intervals as far as they leave the points half of it."""
    values, lows, highs = (
        [100 * row[f"{group}_accuracy_drop{end}"] for row in rows if row[f"{group}_accuracy_drop{end}"] is not None]
        for end in ("", "_low", "_high")
    )
    low, high = min([0.0, *values]), max([5.0, *values])
    room = (high - low) / 2
    return max(low - room, min([low, *lows])), min(high + room, max([high, *highs]))


def _point(row: Row, method: Row, numbers: Mapping[str, int], x: Ends, y: Ends) -> dict[str, Any]:
    number = numbers[row["concept"]]
    point: dict[str, Any] = {
        "kind": method["kind"],
        "main": True,
        "tag": str(number) if len(numbers) <= NUMBERED else "",
    }
    for group, (low, high) in (("target", y), ("complement", x)):
        for end in ("", "_low", "_high"):
            share = row[f"{group}_accuracy_drop{end}"]
            # a long interval would make all points small
            point[group + end] = None if share is None else min(max(100 * share, low), high)
    return point
