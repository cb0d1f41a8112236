"""What a method takes from the target as more neurons and wider ranges are masked, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronlens.pages.drawing import Figure, Rows
from neuronlens.pages.figures.effects import Ends, frame, frame_layers
from neuronlens.pages.theme import SHAPES, light

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart

WIDTHS_TOLD = 4
"""Widths of a range that have a dash of their own."""
_DASHES = ([1, 0], [5, 3], [2, 2], [7, 2, 2, 2])


def frontier(rows: Rows, x: Ends, y: Ends) -> Figure:
    """Drop on the others (x) against drop on the target (y), a line for each kind of range and width through its shares of the neurons.

    Args:
        rows: `kind`, `width` (place among the widths, from 0; below `WIDTHS_TOLD`), `top` (percent of the neurons), `target` and
            `complement` (percentage points).
        x, y: what the axes must hold, so that panels can be compared.
    """
    return Figure(_frontier, {"settings": rows} | frame(x, y))


def cost(rows: Rows, furthest: float, dearest: float) -> Figure:
    """Drop on the target (x) against the perplexity of ordinary text, as times that of the unedited model, on a logarithmic axis (y).

    Args:
        rows: as of `frontier`, with `ratio`.
        furthest, dearest: the largest drop and ratio that the axes must hold, so that panels can be compared.
    """
    return Figure(_cost, {"settings": rows, "corners": [{"target": furthest, "ratio": dearest}]})


def _frontier() -> Chart:
    import altair as alt

    axis = alt.Axis(tickCount=5, format="d")
    x = alt.X("complement:Q", title="drop on the other concepts (points)", axis=axis)
    y = alt.Y("target:Q", title="drop on the target (points)", axis=axis)
    return alt.layer(*frame_layers(x, y), *_paths(x, y)).properties(width=250, height=250)


def _cost() -> Chart:
    import altair as alt

    x = alt.X("target:Q", title="drop on the target (points)", axis=alt.Axis(tickCount=5, format="d"))
    y = alt.Y("ratio:Q", title="perplexity, times the unedited", axis=alt.Axis(tickCount=4, format=".3~g")).scale(
        type="log", nice=False
    )
    room = alt.Chart(alt.NamedData("corners")).mark_point(opacity=0, color=light("muted")).encode(x, y)
    return alt.layer(room, *_paths(x, y)).properties(width=250, height=250)


def _paths(x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Lines from few neurons to all, their points, and at each the share of the neurons."""
    import altair as alt

    kinds = list(SHAPES)
    colour = alt.Color("kind:N", legend=None).scale(domain=kinds, range=[light(kind) for kind in kinds])
    shape = alt.Shape("kind:N", legend=None).scale(domain=kinds, range=[SHAPES[kind] for kind in kinds])
    dash = alt.StrokeDash("width:O", legend=None).scale(domain=list(range(WIDTHS_TOLD)), range=list(_DASHES))
    settings = alt.Chart(alt.NamedData("settings"))
    return [
        settings.mark_line(strokeWidth=1.4).encode(x, y, colour, dash, order="top:Q", detail=["width:O"]),
        settings.mark_point(size=40, filled=True, opacity=1).encode(x, y, colour, shape),
        settings.mark_text(dx=8, dy=-7, fontSize=10, color=light("muted")).encode(
            x, y, text=alt.Text("top:Q", format=".3~g")
        ),
    ]
