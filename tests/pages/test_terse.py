"""A shortened chart has every mark that can be seen, each with the look it had."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from neuronlens.pages.figures.densities import gaussians
from neuronlens.pages.terse import terse


def shortened(svg: str) -> str:
    root = ET.fromstring(svg)
    terse(root)
    return ET.tostring(root, encoding="unicode")


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ('<line stroke="#000" stroke-width="1" x2="0" y2="5.0000001" opacity="1" />', '<line stroke="#000" y2="5" />'),
        ('<g><g><line stroke="#000" x2="-1e-9" /></g></g>', '<line stroke="#000" />'),
        ('<path d="M1,2" stroke="#000" opacity="0" />', ""),
        ('<g stroke="#000"><path d="M1,2" stroke="#000" /></g>', '<g stroke="#000"><path d="M1,2" /></g>'),
        ('<path d="M1,2" fill="#000" stroke-width="2" />', '<path d="M1,2" fill="#000" />'),
        (
            '<path transform="translate(3,4)" d="M2.5,0A2.5,2.5,0,1,1,-2.5,0A2.5,2.5,0,1,1,2.5,0" fill="#000" />',
            '<circle fill="#000" r="2.5" cx="3" cy="4" />',
        ),
        (
            '<text transform="translate(1.23456,16)" font-family="A 1.50" fill="#000">1.50</text>',
            '<text fill="#000" x="1.23" y="16">1.50</text>',
        ),
        (
            '<text transform="translate(1,2) rotate(-90)" x="3">a</text>',
            '<text transform="translate(1,2) rotate(-90)" x="3">a</text>',
        ),
        ('<rect fill="#000" opacity="0.8" width="2" />', '<rect fill="#000" opacity="0.8" width="2" />'),
    ],
)
def test_nothing_is_said_twice_or_too_precisely(long: str, short: str) -> None:
    family = ' font-family="A 1.50"' if "font-family" in long else ""
    inside = f">{short}</svg>" if short else " />"
    assert shortened(f"<svg>{long}</svg>") == f"<svg{family}{inside}"


def test_marks_that_look_alike_say_so_once_and_stay_in_their_order() -> None:
    alike = "".join(f'<line stroke="#000" y2="{y}" />' for y in (1, 2, 3))
    other = '<line stroke="#111" y2="4" />'
    found = shortened(f"<svg>{other}{alike}{other}</svg>")
    group = '<g stroke="#000"><line y2="1" /><line y2="2" /><line y2="3" /></g>'
    assert found == f"<svg>{other}{group}{other}</svg>"


def test_to_shorten_again_changes_nothing() -> None:
    once = gaussians((0.0, 1.0), (2.0, 0.5)).svg()
    assert shortened(once) == once
