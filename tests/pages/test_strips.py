"""Strips are true: the threshold, the interval and the number lie where the numbers say."""

from __future__ import annotations

import pytest

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.strips import GATE_SIZE, axis, gate_strip, value_strip
from neuronlens.pages.theme import light
from tests.pages.drawn import box, marks, rule

FIXED = (-0.5, 1.0)


def _place(number: float, least: float, most: float) -> float:
    return GATE_SIZE[0] * (number - least) / (most - least)


def _parts(figure: Figure) -> dict[str, list[float]]:
    """Colour and shape of what is drawn -> places across, from the left end of the axis."""
    found = [*marks(figure)]
    ((_, left, _),) = [mark for mark in found if mark[0].get("stroke") == light("line")]
    parts: dict[str, list[float]] = {}
    for element, x, y in found:
        if element.tag == "line":
            start, _, end, _ = rule(element, x, y)
            parts["interval"] = [start - left, end - left]
        elif element.get("fill") == light("ink"):
            low, high, _, _ = box(element)
            parts["bound"] = [x + (low + high) / 2 - left]
        elif element.get("opacity") == "0.14":
            low, high, _, _ = box(element)
            parts["passes"] = [x + low - left, x + high - left]
        elif element.get("fill") == light("muted") and "A" not in element.get("d", ""):
            parts["previous"] = [x - left]
        elif "A" in element.get("d", "") or element.get("d", "").count("L") == 3:
            parts["value"] = [x - left]
    return parts


@pytest.mark.parametrize(
    ("value", "low", "high", "bound", "below", "previous"),
    [
        (0.946, 0.927, 0.965, 0.9, False, 0.92),
        (0.05, 0.03, 0.07, 0.02, True, 0.01),
        (-0.4, -0.9, 0.3, 0.0, True, None),
        (1200.0, 900.0, 1500.0, 1000.0, False, 800.0),
    ],
)
def test_a_gates_strip_is_true(
    value: float, low: float, high: float, bound: float, below: bool, previous: float | None
) -> None:
    figure = gate_strip(value, low, high, bound, below=below, tone="good", previous=previous)
    known = [value, low, high, bound, *([] if previous is None else [previous])]
    least, most = axis(known)
    parts = _parts(figure)
    for name, numbers in {
        "interval": [low, high],
        "bound": [bound],
        "value": [value],
        "passes": [least, bound] if below else [bound, most],
        "previous": [] if previous is None else [previous],
    }.items():
        expected = [_place(number, least, most) for number in numbers]
        assert parts.get(name, []) == pytest.approx(expected, abs=0.01), name


def test_an_end_that_is_infinite_runs_out_of_the_strip_and_has_no_cap() -> None:
    open_end, closed = (gate_strip(0.02, low, 0.07, 0.03, below=True, tone="open") for low in (None, 0.015))
    assert _parts(open_end)["interval"][0] == pytest.approx(0.0, abs=0.01)

    def caps(figure: Figure) -> int:
        return sum("v9h" in element.get("d", "") or "h2v9" in element.get("d", "") for element, _, _ in marks(figure))

    assert (caps(open_end), caps(closed)) == (1, 2)


@pytest.mark.parametrize("tone", ["good", "bad", "open"])
def test_colour_and_shape_tell_the_verdict(tone: str) -> None:
    shapes = {
        "good": ("A", light("good")),
        "bad": ("L", light("bad")),
        "open": ("h", light("muted")),
    }
    points = [
        element
        for element, _, _ in marks(gate_strip(0.5, 0.4, 0.6, 0.3, below=False, tone=tone))
        if element.get("transform") and element.tag == "path"
    ]
    command, colour = shapes[tone]
    assert [(command in point.get("d", ""), point.get("fill")) for point in points] == [(True, colour)]


@pytest.mark.parametrize(("value", "low", "high"), [(0.9, 0.85, 0.95), (0.2, -0.9, 1.4), (0.99, None, None)])
def test_strips_below_one_another_share_their_axis_to_the_point(
    value: float, low: float | None, high: float | None
) -> None:
    """Widths and the places of the axis do not depend on what is drawn: that is what makes a column of strips a trend."""
    figure, other = value_strip(value, low, high, *FIXED), value_strip(0.3, 0.2, 0.4, *FIXED)
    sizes = [strip.svg().partition(">")[0] for strip in (figure, other)]
    assert sizes[0] == sizes[1]
    ends = []
    for strip in (figure, other):
        ticks = sorted(x + box(element)[0] + 0.5 for element, x, _ in marks(strip) if "h1v14" in element.get("d", ""))
        assert len(ticks) == 3
        ends.append(ticks)
    assert ends[0] == pytest.approx(ends[1])
    left, _, right = ends[0]
    ((element, x, y),) = [mark for mark in marks(figure) if mark[0].tag == "line"] or [(None, 0.0, 0.0)]
    if element is not None:
        start, _, end, _ = rule(element, x, y)
        expected = [
            left + (right - left) * (min(1.0, max(-0.5, limit)) + 0.5) / 1.5
            for limit in (value if low is None else low, value if high is None else high)
        ]
        assert [start, end] == pytest.approx(expected, abs=0.01)
