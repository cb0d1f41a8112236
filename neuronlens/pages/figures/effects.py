"""Drops on the target against drops on the others: a point is a method, or a concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronlens.pages.drawing import Figure, Rows
from neuronlens.pages.theme import SHAPES, light

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart


Ends = tuple[float, float]


def effects(rows: Rows, x: Ends, y: Ends) -> Figure:
    """Complement drop (x) against target drop (y) of a site's methods, in percentage points.

    Args:
        rows: per method `kind`, `tag` (a letter beside it), `main` (whether findings speak of it: only these have crosses), `target`,
            `complement` and the ends of their intervals, `target_low` and so on, None where there is none.
        x, y: what the axes must hold, so that panels can be compared.
    """
    return Figure(_effects, {"methods": rows} | frame(x, y))


def frame(x: Ends, y: Ends) -> dict[str, Rows]:
    """The data `corners`, what the axes must hold, and `diagonal`, where a method harms all concepts alike."""
    return {
        "corners": [{"complement": at, "target": up} for at, up in zip(x, y, strict=True)],
        "diagonal": [{"complement": end, "target": end} for end in (max(x[0], y[0]), min(x[1], y[1]))],
    }


def frame_layers(x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """What draws them."""
    import altair as alt

    diagonal = alt.Chart(alt.NamedData("diagonal"))
    return [
        diagonal.mark_line(color=light("muted"), strokeDash=[4, 4], opacity=0.7).encode(x, y),
        alt.Chart(alt.NamedData("corners")).mark_point(opacity=0, color=light("muted")).encode(x, y),
    ]


def _effects() -> Chart:
    import altair as alt

    kinds = list(SHAPES)
    axis = alt.Axis(tickCount=5, format="d")
    x = alt.X("complement:Q", title="drop on the other concepts (points)", axis=axis)
    y = alt.Y("target:Q", title="drop on the target (points)", axis=axis)
    colour = alt.Color("kind:N", legend=None).scale(domain=kinds, range=[light(kind) for kind in kinds])
    shape = alt.Shape("kind:N", legend=None).scale(domain=kinds, range=[SHAPES[kind] for kind in kinds])
    methods, main = alt.Chart(alt.NamedData("methods")), alt.datum.main
    crosses = methods.transform_filter(main)
    layers = [
        *frame_layers(x, y),
        methods.transform_filter(~main)
        .mark_point(size=28, filled=False, opacity=0.55, strokeWidth=1.2)
        .encode(x, y, colour, shape),
        crosses.mark_rule(strokeWidth=1.6, opacity=0.8).encode(
            x="complement_low:Q", x2="complement_high", y="target:Q", color=colour
        ),
        crosses.mark_rule(strokeWidth=1.6, opacity=0.8).encode(
            y="target_low:Q", y2="target_high", x="complement:Q", color=colour
        ),
        crosses.mark_point(size=90, filled=True, opacity=1).encode(x, y, colour, shape),
        crosses.mark_text(dx=10, dy=-9, fontSize=11, color=light("ink")).encode(x, y, text="tag:N"),
    ]
    return alt.layer(*layers).properties(width=250, height=250)
