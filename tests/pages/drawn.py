"""Reading charts: where the marks of an SVG lie."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from neuronlens.pages.drawing import Figure

Mark = tuple[ET.Element, float, float]


_INHERITED = ("fill", "stroke", "stroke-dasharray", "stroke-width", "opacity", "fill-opacity", "stroke-opacity")


def marks(figure: Figure) -> Iterator[Mark]:
    """Every shape with the place of its origin, in the drawing's own units. What it takes from the groups around it stands at
    it, and a point is a path of arcs, as a renderer leaves it.
    """
    yield from _walk(ET.fromstring(figure.svg()), 0.0, 0.0, {})


def _walk(element: ET.Element, x: float, y: float, look: Mapping[str, str]) -> Iterator[Mark]:
    moved = re.fullmatch(r"translate\(([-\d.e]+),\s*([-\d.e]+)\)", element.get("transform", ""))
    if moved:
        x, y = x + float(moved[1]), y + float(moved[2])
    look = {**look, **{name: value for name, value in element.attrib.items() if name in _INHERITED}}
    if element.tag == "circle":
        point = {**look, **element.attrib, "d": "A", "transform": f"translate({element.get('cx')},{element.get('cy')})"}
        yield ET.Element("path", point), x + float(element.get("cx", 0)), y + float(element.get("cy", 0))
    elif element.tag in ("path", "line", "text"):
        faint = {"opacity": look["stroke-opacity"]} if "stroke-opacity" in look else {}
        own = ET.Element(element.tag, {**faint, **look, **element.attrib})
        own.text = element.text
        yield own, x, y
    for child in element:
        yield from _walk(child, x, y, look)


def box(element: ET.Element) -> tuple[float, float, float, float]:
    """From and to, across and down, of a path of straight lines, relative to its origin."""
    xs: list[float] = []
    ys: list[float] = []
    x = y = 0.0
    for command, numbers in re.findall(r"([MLhvHVZ])([-\d.,e]*)", element.get("d", "")):
        given = [float(number) for number in numbers.split(",") if number]
        if command in "ML":
            x, y = given
        elif command in "hH":
            x = given[0] + (x if command == "h" else 0)
        elif command in "vV":
            y = given[0] + (y if command == "v" else 0)
        xs.append(x)
        ys.append(y)
    return min(xs), max(xs), min(ys), max(ys)


def rule(element: ET.Element, x: float, y: float) -> tuple[float, float, float, float]:
    """Ends of a line: across and down of its first, then of its second."""
    return x, y, x + float(element.get("x2", 0)), y + float(element.get("y2", 0))
