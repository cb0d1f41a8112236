"""Slopes and dumbbells are true, and their numbers can be told apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.pages.figures.changes import apart, dumbbells, slopes
from neuronlens.pages.theme import light
from tests.pages.drawn import marks, rule

ROWS: list[dict[str, Any]] = [
    {"before": 98.0, "after": 83.0, "tone": "worsened"},
    {"before": 90.0, "after": 91.0, "tone": "noise"},
    {"before": 80.0, "after": 91.5, "tone": "improved"},
]


def test_slopes_lead_from_before_to_after() -> None:
    points = [
        (x, y, element.get("fill"))
        for element, x, y in marks(slopes(ROWS))
        if element.tag == "path" and element.get("transform") and element.get("fill")
    ]
    assert len(points) == 2 * len(ROWS)
    left, right = (side(x for x, _, _ in points) for side in (min, max))
    values = [(row["before"], row["after"]) for row in ROWS]
    # one scale for all: down the drawing as the value falls
    (top, low) = (min(y for _, y, _ in points), max(y for _, y, _ in points))
    most, least = 98.0, 80.0
    for (before, after), row in zip(values, ROWS, strict=True):
        colour = light({"worsened": "bad", "improved": "good", "noise": "muted"}[row["tone"]])
        own = sorted((x, y) for x, y, fill in points if fill == colour)
        expected = [
            (x, low - (value - least) / (most - least) * (low - top)) for x, value in ((left, before), (right, after))
        ]
        assert own == [pytest.approx(pair, abs=0.01) for pair in expected]


def test_every_slope_has_its_number_and_noise_is_dashed() -> None:
    drawn = [*marks(slopes(ROWS))]
    labels = {element.text for element, _, _ in drawn if element.tag == "text"}
    assert {"1", "2", "3"} <= labels
    dashed = [element.get("stroke") for element, _, _ in drawn if element.get("stroke-dasharray") == "3,3"]
    assert dashed == [light("muted")]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.floats(0.5, 10))
def test_numbers_stand_apart_in_the_order_of_what_they_name(values: list[float], gap: float) -> None:
    places = apart(values, gap)
    order = sorted(range(len(values)), key=lambda i: (values[i], places[i]))
    steps = [places[b] - places[a] for a, b in pairwise(order)]
    assert all(step >= gap - 1e-6 for step in steps)
    assert sum(places) == pytest.approx(sum(values), abs=1e-6)  # nothing is pushed to one side


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9, unique=True))
def test_numbers_that_are_far_apart_stand_where_their_values_are(values: list[float]) -> None:
    least = min((abs(a - b) for i, a in enumerate(values) for b in values[:i]), default=1.0)
    assert apart(values, least / 2) == pytest.approx(values)


def test_a_range_that_one_audit_alone_has_is_one_line() -> None:
    def lines(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
        return sorted(
            (start, end)
            for element, x, y in marks(dumbbells(rows))
            if element.tag == "line" and element.get("stroke-width") == "2.5"
            for start, _, end, _ in [rule(element, x, y)]
        )

    both = [
        {"place": place, "when": when, "low": -2.0 + shift, "high": 2.0 + shift}
        for place in (1, 2)
        for when, shift in (("before", 0.0), ("after", place / 2))
    ]
    assert len(lines(both)) == 4
    assert len(lines(both[:-1])) == 3
    widths = [end - start for start, end in lines(both)]
    assert widths == pytest.approx([widths[0]] * 4)
    starts = [start for start, _ in lines(both)]
    unit = widths[0] / 4.0
    assert starts == pytest.approx([starts[0], starts[0], starts[0] + unit / 2, starts[0] + unit])
