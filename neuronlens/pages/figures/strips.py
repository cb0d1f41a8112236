"""Strips: one number with its interval on a line, held against a threshold, or on an axis that many strips share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from neuronlens.pages.drawing import Figure
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart

Tone = Literal["good", "bad", "open"]

GATE_SIZE, VALUE_SIZE = (150, 20), (164, 14)
_ROOM = 0.08  # of the axis, free on either side


def gate_strip(
    value: float,
    low: float | None,
    high: float | None,
    bound: float,
    *,
    below: bool,
    tone: Tone,
    previous: float | None = None,
) -> Figure:
    """A gate's number with its interval, the threshold as a line, and the side of it that passes shaded.

    The axis holds all of them and has no marks: the numbers stand beside the strip.

    Args:
        low, high: ends of the interval; None where it has none, and the strip runs out of the axis there.
        bound: the threshold.
        below: whether the number must lie below it.
        tone: of the verdict.
        previous: what the number was at the audit before.
    """
    known = [end for end in (value, low, high, bound, previous) if end is not None]
    least, most = axis(known)
    return Figure(
        _gate_strip,
        {
            "frame": [{"end": least}, {"end": most}],
            "passes": [{"from": least if below else bound, "to": bound if below else most}],
            "number": [
                {
                    "value": value,
                    "low": least if low is None else low,
                    "high": most if high is None else high,
                    "tone": tone,
                }
            ],
            "ends": [{"end": end, "tone": tone} for end in (low, high) if end is not None],
            "bound": [{"bound": bound}],
            "previous": [] if previous is None else [{"value": previous}],
        },
    )


def value_strip(value: float, low: float | None, high: float | None, least: float, most: float) -> Figure:
    """A number with its interval on a fixed axis with its ends and 0 marked, so that strips below one another read as a series.

    Args:
        low, high: ends of the interval; None where there is none.
        least, most: of the axis. What lies beyond is drawn at its end.
    """

    room = _ROOM * (most - least)  # a mark that reached beyond the drawing would make it wider than the others

    def within(number: float) -> float:
        return min(most, max(least, number))

    return Figure(
        _value_strip,
        {
            "frame": [{"end": least - room}, {"end": most + room}],
            "marks": [{"at": at} for at in dict.fromkeys((least, 0.0, most)) if least <= at <= most],
            "number": [
                {
                    "value": within(value),
                    "low": within(value if low is None else low),
                    "high": within(value if high is None else high),
                }
            ],
        },
    )


def axis(numbers: Iterable[float]) -> tuple[float, float]:
    """Ends of an axis that holds all of the numbers, with some room on either side."""
    found = [*numbers]
    least, most = min(found), max(found)
    room = _ROOM * (most - least) or 0.5 * abs(most) or 0.5
    return least - room, most + room


def _gate_strip() -> Chart:
    import altair as alt

    width, height = GATE_SIZE
    tones = ["good", "bad", "open"]
    scale = alt.Scale(domain=tones, range=[light(name) for name in ("good", "bad", "muted")])
    colour = alt.Color("tone:N", legend=None, scale=scale)
    shape = alt.Shape("tone:N", legend=None).scale(domain=tones, range=["circle", "diamond", "square"])
    number = alt.Chart(alt.NamedData("number"))
    layers = [
        alt.Chart(alt.NamedData("passes"))
        .mark_rect(color=light("good"), opacity=0.14)
        .encode(_bare("from"), alt.X2("to")),
        alt.Chart(alt.NamedData("frame")).mark_line(color=light("line"), strokeWidth=1).encode(_bare("end")),
        alt.Chart(alt.NamedData("previous"))
        .mark_point(shape="triangle-up", size=28, filled=True, color=light("muted"), opacity=1, yOffset=8)
        .encode(_bare("value")),
        number.mark_rule(strokeWidth=2.5).encode(_bare("low"), alt.X2("high"), colour),
        alt.Chart(alt.NamedData("ends"))
        .mark_tick(orient="vertical", size=9, thickness=2, opacity=1)
        .encode(_bare("end"), colour),
        alt.Chart(alt.NamedData("bound"))
        .mark_tick(orient="vertical", size=height, thickness=1.5, opacity=1, color=light("ink"))
        .encode(_bare("bound")),
        number.mark_point(size=60, filled=True, opacity=1).encode(_bare("value"), colour, shape),
    ]
    return alt.layer(*layers).properties(width=width, height=height)


def _value_strip() -> Chart:
    import altair as alt

    width, height = VALUE_SIZE
    number = alt.Chart(alt.NamedData("number"))
    layers = [
        alt.Chart(alt.NamedData("frame")).mark_line(color=light("line"), opacity=0).encode(_bare("end")),
        alt.Chart(alt.NamedData("marks")).mark_line(color=light("line"), strokeWidth=1).encode(_bare("at")),
        alt.Chart(alt.NamedData("marks"))
        .mark_tick(orient="vertical", size=height, thickness=1, opacity=1, color=light("line"))
        .encode(_bare("at")),
        number.mark_rule(strokeWidth=5, color=light("gaussian"), opacity=0.4).encode(_bare("low"), alt.X2("high")),
        number.mark_point(size=20, filled=True, opacity=1, color=light("gaussian")).encode(_bare("value")),
    ]
    return alt.layer(*layers).properties(width=width, height=height)


def _bare(field: str) -> alt.X:
    """Along a strip, whose axis has no marks and ends where its frame does."""
    import altair as alt

    return alt.X(f"{field}:Q", axis=None).scale(zero=False, nice=False, padding=0)
