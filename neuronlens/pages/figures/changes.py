"""What changed between two checkpoints: effects as slopes from before to after, and ranges before and after as dumbbells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuronlens.pages.drawing import Figure, Rows
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    from neuronlens.pages.drawing import Chart

SLOPE_SIZE = (210, 168)
_GAP = 0.085  # of the axis: how far the numbers of two slopes stand apart at least
_LEAST_SPAN = 10.0  # percentage points


def slopes(rows: Rows) -> Figure:
    """Effects before (left) and after (right), in percentage points, numbered in their order on the right.

    Args:
        rows: `before`, `after` and `tone`: `improved`, `worsened` or `noise`, whose lines are dashed.
    """
    values = [value for row in rows for value in (row["before"], row["after"])]
    least, most = min(values), max(values)
    span = max(_LEAST_SPAN, most - least)
    middle = (least + most) / 2
    frame = [{"value": middle + side * span * 0.54} for side in (-1, 1)]
    places = apart([float(row["after"]) for row in rows], _GAP * span * 1.08)
    lines = [
        {"effect": effect, "side": side, "value": row[name], "tone": row["tone"]}
        for effect, row in enumerate(rows, 1)
        for side, name in enumerate(("before", "after"))
    ]
    labels = [
        {"label": f"{effect}", "side": 1.0, "value": row["after"], "to": 1.14, "place": place, "tone": row["tone"]}
        for effect, (row, place) in enumerate(zip(rows, places, strict=True), 1)
    ]
    return Figure(_slopes, {"frame": frame, "lines": lines, "labels": labels})


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places near the values, in their order, no two of them closer than `gap`: those too close are spread around their common middle."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        groups.append([i])
        centres.append(values[i])
        # a group that its neighbour reaches into becomes one with it
        while len(groups) > 1 and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            joined = groups[-2] + groups[-1]
            groups[-2:] = [joined]
            centres[-2:] = [sum(values[k] for k in joined) / len(joined)]
    places = [0.0] * len(values)
    for group, centre in zip(groups, centres, strict=True):
        for step, i in enumerate(group):
            places[i] = centre + gap * (step - (len(group) - 1) / 2)
    return places


def dumbbells(rows: Rows) -> Figure:
    """Ranges of neurons before (upper line of each, hollow ends) and after (lower line, filled ends).

    Args:
        rows: one per range: `place` (1 for the first neuron from above), `when` (`before` or `after`), `low`, `high`: in pooled standard
            deviations from the mean before.
    """
    ends = [{"place": row["place"], "when": row["when"], "at": row[end]} for row in rows for end in ("low", "high")]
    return Figure(_dumbbells, {"ranges": rows, "ends": ends})


def _slopes() -> Chart:
    import altair as alt

    width, height = SLOPE_SIZE
    x = alt.X("side:Q", axis=None).scale(domain=[-0.04, 1.24], nice=False)
    y = alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=5, format=".4~g")).scale(zero=False, nice=False, padding=0)
    tones = ["improved", "worsened", "noise"]
    colour = alt.Color("tone:N", legend=None).scale(
        domain=tones, range=[light(name) for name in ("good", "bad", "muted")]
    )
    dash = alt.StrokeDash("tone:N", legend=None).scale(domain=tones, range=[[1, 0], [1, 0], [3, 3]])
    shape = alt.Shape("tone:N", legend=None).scale(domain=tones, range=["triangle-up", "triangle-down", "circle"])
    lines, labels = alt.Chart(alt.NamedData("lines")), alt.Chart(alt.NamedData("labels"))
    layers = [
        alt.Chart(alt.NamedData("frame")).mark_point(opacity=0).encode(y=y),
        lines.mark_line(strokeWidth=1.8).encode(x, y, colour, dash, alt.Detail("effect:N")),
        lines.mark_point(size=38, filled=True, opacity=1).encode(x, y, colour, shape),
        labels.mark_rule(strokeWidth=0.8, color=light("muted")).encode(x, y, x2="to", y2="place"),
        labels.mark_text(align="left", dx=3, fontSize=12, color=light("ink")).encode(
            alt.X("to:Q", axis=None), alt.Y("place:Q", title=None), text="label:N"
        ),
    ]
    return alt.layer(*layers).properties(width=width, height=height)


def _dumbbells() -> Chart:
    import altair as alt

    x = alt.X("low:Q", title="pooled stds from the mean before", axis=alt.Axis(tickCount=6, format=".4~g")).scale(
        zero=False, nice=False, padding=8
    )
    y = alt.Y("place:O", title=None, axis=alt.Axis(ticks=False, domain=False, labelAngle=0))
    whens = ["before", "after"]
    offset = alt.YOffset("when:N").scale(domain=whens, range=[7, 17])
    colour = alt.Color("when:N", legend=None).scale(
        domain=whens, range=[light(name) for name in ("complement", "target")]
    )
    ranges, ends = alt.Chart(alt.NamedData("ranges")), alt.Chart(alt.NamedData("ends"))
    at = alt.X("at:Q", title=None)
    layers = [
        ranges.mark_rule(strokeWidth=2.5).encode(x, y, colour, offset, x2="high"),
        ends.transform_filter(alt.datum.when == "before")
        .mark_point(size=38, filled=True, opacity=1, fill=light("page"), strokeWidth=1.6)
        .encode(at, y, offset, stroke=alt.value(light("complement"))),
        ends.transform_filter(alt.datum.when == "after")
        .mark_point(size=38, filled=True, opacity=1, shape="diamond", color=light("target"))
        .encode(at, y, offset),
    ]
    return alt.layer(*layers).properties(width=300, height=alt.Step(26, **{"for": "position"}))
