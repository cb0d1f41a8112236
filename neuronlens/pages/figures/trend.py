"""The trend: a number of the last audits of a line, one after another, each with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronlens.pages.drawing import Figure, Rows
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    from neuronlens.pages.drawing import Chart

LEAST_SPAN = 10.0
"""Percentage points that the axis spans at least: a smaller one would make a mountain of the last digit."""


def trend(rows: Rows) -> Figure:
    """A number over audits, in percentage points.

    Args:
        rows: in order: `place` (from 1), `value`, `low`, `high` (None where there is no interval) and `current`, whether it is the audit
            that the page is of. Those without a value leave a gap.
    """
    known = [row for row in rows if row["value"] is not None]
    ends = [end for row in known for end in (row["value"], row["low"], row["high"]) if end is not None]
    least, most = min(ends), max(ends)
    room = max(0.0, LEAST_SPAN - (most - least)) / 2
    frame = [
        {"place": place, "end": end}
        for place, end in zip((1, max(2, len(rows))), (least - room, most + room), strict=True)
    ]
    return Figure(_trend, {"frame": frame, "audits": known, "places": [{"place": row["place"]} for row in rows]})


def _trend() -> Chart:
    import altair as alt

    # between two audits alone Vega puts a tick in the middle, whatever the least step is
    label = "datum.value % 1 ? '' : datum.label"
    whole = alt.Axis(tickMinStep=1, tickCount=6, format="d", labelExpr=label, ticks=False, grid=False)
    x = alt.X("place:Q", title=None, axis=whole).scale(zero=False, nice=False, padding=10)
    y = alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=4, format=".4~g")).scale(zero=False, nice=True)
    audits, current = alt.Chart(alt.NamedData("audits")), alt.datum.current
    layers = [
        alt.Chart(alt.NamedData("frame")).mark_point(opacity=0).encode(x, alt.Y("end:Q", title=None)),
        audits.mark_rule(strokeWidth=2, color=light("gaussian"), opacity=0.45).encode(x, y="low:Q", y2="high"),
        audits.mark_line(strokeWidth=1.5, color=light("gaussian")).encode(x, y),
        audits.transform_filter(~current)
        .mark_point(size=26, filled=True, opacity=1, color=light("gaussian"))
        .encode(x, y),
        audits.transform_filter(current)
        .mark_point(size=70, filled=True, opacity=1, shape="diamond", color=light("full"))
        .encode(x, y),
    ]
    return alt.layer(*layers).properties(width=200, height=78)
