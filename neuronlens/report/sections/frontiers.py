"""The frontier of a sweep: what each kind of range takes as more neurons and wider ranges are masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.frontier import WIDTHS_TOLD, cost, frontier
from neuronlens.report.view import SITES_DRAWN, spread
from neuronlens.values import WIDTHS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class FrontierPanel:
    """A site's settings under one ranking of the neurons.

    Attributes:
        site, saliency: which.
        figure: what is taken from the target and from the others.
        perplexity: what that costs ordinary text; None where it was not measured.
        rows: the settings drawn, in the order of kind, width and share.
    """

    site: str
    saliency: str
    figure: Figure
    perplexity: Figure | None
    rows: Sequence[Row]


@dataclass(frozen=True)
class Frontiers:
    """All panels, on the same axes.

    Attributes:
        panels: site by site.
        widths: what the dashes stand for, in their order.
        operator: the edit of all settings drawn.
    """

    panels: Sequence[FrontierPanel]
    widths: Sequence[float]
    operator: str


def frontiers(audit: Row) -> Frontiers | None:
    """The sweep's own ranges, under the operator and at the positions of the settings that findings speak of.

    None where the sweep has one share of the neurons and one width: a point is no frontier.
    """
    if not audit["settings"]:
        return None
    first = audit["settings"][0]
    swept = [
        row
        for row in audit["summary"]
        if row["role"] == "sweep"
        and row["kind"] in WIDTHS
        and (row["operator"], row["positions"]) == (first["operator"], first["positions"])
    ]
    widths = sorted({width for row in swept if (width := _width(row)) is not None})[:WIDTHS_TOLD]
    swept = [row for row in swept if _width(row) is None or _width(row) in widths]
    if len({(row["top"], _width(row)) for row in swept if row["kind"] != "full"}) < 2:
        return None
    rankings = list(dict.fromkeys(setting["saliency"] for setting in audit["settings"]))
    points = {
        (site, saliency): [_point(row, widths) for row in swept if (row["site"], row["saliency"]) == (site, saliency)]
        for site in spread([row["site"] for row in audit["sites"]], SITES_DRAWN)
        for saliency in rankings
    }
    every = [point for rows in points.values() for point in rows]
    x, y = (
        (min([0.0, *ends]), max([5.0, *ends]))
        for ends in ([point[group] for point in every] for group in ("complement", "target"))
    )
    furthest = max((point["target"] for point in every), default=0.0)
    dearest = max((point["ratio"] for point in every if point["ratio"] is not None), default=1.0)
    panels = [
        FrontierPanel(
            site,
            saliency,
            frontier(rows, x, y),
            None if any(point["ratio"] is None for point in rows) else cost(rows, furthest, dearest),
            rows,
        )
        for (site, saliency), rows in points.items()
        if rows
    ]
    return Frontiers(panels, widths, first["operator"])


def _width(row: Row) -> float | None:
    """What makes a range wide or narrow; None of whole neurons."""
    width: float | None = row["threshold"] if row["kind"] == "discriminative" else row["tau"]
    return width


def _point(row: Row, widths: Sequence[float]) -> dict[str, Any]:
    width = _width(row)
    return {
        "kind": row["kind"],
        "width": 0 if width is None else widths.index(width),
        "told": width,
        "top": 100 * row["top"],
        "target": 100 * row["target_accuracy_drop"],
        "complement": 100 * row["complement_accuracy_drop"],
        "ratio": row["perplexity_ratio"],
    }
