"""The trend is true, and does not make a mountain of noise."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest

from neuronlens.pages.figures.trend import LEAST_SPAN, trend
from neuronlens.pages.theme import light
from tests.pages.drawn import marks, rule


def _rows(values: list[float | None], width: float = 2.0) -> list[dict[str, Any]]:
    return [
        {
            "place": place,
            "value": value,
            "low": None if value is None else value - width,
            "high": None if value is None else value + width,
            "current": place == len(values),
        }
        for place, value in enumerate(values, 1)
    ]


def _points(values: list[float | None], **options: float) -> list[tuple[float, float, str | None]]:
    return sorted(
        (x, y, element.get("fill"))
        for element, x, y in marks(trend(_rows(values, **options)))
        if element.tag == "path" and element.get("transform") and element.get("fill")
    )


@pytest.mark.parametrize("audits", [2, 3, 5])
def test_each_audit_is_numbered_once(audits: int) -> None:
    root = ET.fromstring(trend(_rows([50.0 + place for place in range(audits)])).svg())
    told = [element.text for element in root.iter("text")]
    numbers = [text for text in told if text and 0 < float(text) < 10]
    assert numbers == [str(place) for place in range(1, audits + 1)]


def test_points_and_intervals_lie_where_the_numbers_say() -> None:
    values: list[float | None] = [60.0, 80.0, 90.0]
    points = _points(values)
    steps = [b[0] - a[0] for a, b in pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 2)
    unit = (points[0][1] - points[2][1]) / 30.0
    assert points[0][1] - points[1][1] == pytest.approx(20 * unit)
    intervals = [
        abs(start - end)
        for element, x, y in marks(trend(_rows(values)))
        if element.tag == "line" and element.get("opacity") == "0.45"
        for _, start, _, end in [rule(element, x, y)]
    ]
    assert intervals == pytest.approx([4 * unit] * 3, abs=0.01)


def test_the_pages_own_audit_stands_out_by_colour_and_shape() -> None:
    assert [colour for _, _, colour in _points([60.0, 80.0, 90.0])] == [
        light("gaussian"),
        light("gaussian"),
        light("full"),
    ]


def test_what_was_not_measured_leaves_a_gap() -> None:
    with_gap, whole = _points([60.0, None, 90.0]), _points([60.0, 80.0, 90.0])
    assert [x for x, _, _ in with_gap] == pytest.approx([whole[0][0], whole[2][0]])


def test_a_tenth_of_a_point_is_no_mountain() -> None:
    flat, steep = (_points(values, width=0.01) for values in ([90.0, 90.1], [80.0, 90.0]))
    assert abs(flat[0][1] - flat[1][1]) < abs(steep[0][1] - steep[1][1]) * 0.2
    assert LEAST_SPAN == 10
