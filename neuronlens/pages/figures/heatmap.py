"""A heatmap: a number in each cell of a grid, on a shade that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from neuronlens.pages.drawing import Figure
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    from neuronlens.pages.drawing import Chart

_CELL = (72, 24)
_DEEPEST = "#478fc0"  # on which ink can still be read


def heatmap(values: Sequence[Sequence[float | None]]) -> Figure:
    """Cells by their places, rows from above and columns from the left, both from 1.

    Args:
        values: by row and column, in percent; None where nothing was measured, and the cell stays empty. Below 0 and above 100 shades end.
    """
    cells = [
        {"row": row, "column": column, "value": value}
        for row, line in enumerate(values, 1)
        for column, value in enumerate(line, 1)
    ]
    return Figure(_heatmap, {"cells": cells})


def _heatmap() -> Chart:
    import altair as alt

    def axis(orient: Literal["top", "left"]) -> alt.Axis:
        return alt.Axis(orient=orient, ticks=False, domain=False, labelPadding=6, labelLimit=200, labelAngle=0)

    x, y = alt.X("column:O", title=None, axis=axis("top")), alt.Y("row:O", title=None, axis=axis("left"))
    shade = alt.Color("value:Q", legend=None).scale(domain=[0, 100], range=[light("panel"), _DEEPEST], clamp=True)
    known = alt.Chart(alt.NamedData("cells")).transform_filter("datum.value !== null")
    layers = [
        alt.Chart(alt.NamedData("cells")).mark_rect(opacity=0).encode(x, y),
        known.mark_rect(stroke=light("page"), strokeWidth=1).encode(x, y, shade),
        known.mark_text(fontSize=12, color=light("ink")).encode(x, y, text=alt.Text("value:Q", format=".1f")),
    ]
    width, height = (alt.Step(size, **{"for": "position"}) for size in _CELL)
    return alt.layer(*layers).properties(width=width, height=height)
