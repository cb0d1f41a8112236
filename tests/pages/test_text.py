"""Numbers are written one way, and text from data can neither hide nor act."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.pages.text import code, count, markdown, number, points, points_between, significant, visible


@given(st.text())
def test_visible_text_is_one_line_of_characters_that_can_be_seen(text: str) -> None:
    shown = visible(text)
    assert len(shown) <= 200
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"])))
def test_markdown_escapes_every_mark(text: str) -> None:
    escaped = markdown(text[:100])
    assert escaped.replace("\\\\", "").count("\\") == sum(not c.isalnum() and c not in " \\" for c in text[:100])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1234, "12.3"),
        (-0.0001, "0.0"),
        (-0.05, "\u22125.0"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (12.0, "1,200.0"),
    ],
)
def test_points(value: float | None, expected: str) -> None:
    assert points(value) == expected


def test_signs_and_intervals() -> None:
    assert points(0.05, sign=True) == "+5.0"
    assert points(0.0, sign=True) == "0.0"
    assert points_between(-0.1, 0.2) == "[\u221210.0, 20.0]"
    assert points_between(None, 0.2) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (983.73, "984"),
        (20.0, "20.0"),
        (0.0123, "0.0123"),
        (0, "0"),
        (1e-7, "1.00e\u221207"),
        (2.5e9, "2.50e+09"),
        (math.inf, "\u2013"),
        (0.99996, "1.00"),
        (99.96, "100"),
    ],
)
def test_significant(value: float, expected: str) -> None:
    assert significant(value) == expected


def test_counts_and_plain_numbers() -> None:
    assert (count(1, "row"), count(1200, "row")) == ("1 row", "1,200 rows")
    assert number(6, 0) == "6"


@given(st.text())
def test_code_is_one_closed_span(text: str) -> None:
    span = code(text)
    assert span.startswith("`")
    assert span.endswith("`")
    assert "`" not in span[1:-1]
