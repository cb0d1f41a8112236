"""SVG that says nothing twice, and nothing more precisely than can be seen: a page holds a hundred charts, and a renderer spells out every
default, digit and font for every mark. What is drawn stays the same.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from itertools import groupby

_INHERITED = {
    "fill": "",
    "stroke": "",
    "stroke-width": "1",
    "stroke-dasharray": "",
    "stroke-opacity": "1",
    "fill-opacity": "1",
    "text-anchor": "start",
    "font-family": "",
    "font-size": "",
    "font-weight": "normal",
}
"""What an element takes from those around it, with what a renderer takes where none of them says anything."""
_ABSENT = {
    "opacity": "1",
    "x": "0",
    "y": "0",
    "x1": "0",
    "y1": "0",
    "x2": "0",
    "y2": "0",
    "transform": "translate(0,0)",
}
"""What an attribute stands for where it is not there."""
_WORDS = ("font-family", "fill", "stroke", "stroke-dasharray")
_NUMBER = re.compile(r"-?\d*\.\d+(?:e-?\d+)?|-?\d+e-?\d+")
_CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0Z?")
_MOVED = re.compile(r"translate\((-?[\d.]+),(-?[\d.]+)\)")
_RUN = 3  # a group around fewer costs more than it saves


def terse(root: ET.Element) -> None:
    """Shorten an SVG of shapes and text in place."""
    for element in root.iter():
        for child in [child for child in element if child.get("opacity") == "0"]:
            element.remove(child)
    for element in root.iter():
        _round(element)
        _place(element)
    families = {element.get("font-family", "") for element in root.iter("text")}
    if len(families) == 1 and "" not in families:
        root.attrib["font-family"] = families.pop()
    _prune(root, {**_INHERITED, "font-family": root.get("font-family", "")})
    for element in [root, *root.iter("g")]:
        _gather(element)


def _round(element: ET.Element) -> None:
    """Two decimals: a page draws a chart at about its own size."""
    for name in element.attrib.keys() - set(_WORDS):
        element.attrib[name] = _NUMBER.sub(_rounded, element.attrib[name])


def _rounded(number: re.Match[str]) -> str:
    shown = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def _place(element: ET.Element) -> None:
    """Points are circles, and where circles and words stand is no transformation."""
    radius = _CIRCLE.fullmatch(element.get("d", ""))
    if element.tag == "path" and radius:
        element.tag = "circle"
        element.attrib.pop("d")
        element.attrib["r"] = radius[1]
    moved = _MOVED.fullmatch(element.get("transform", ""))
    x, y = {"circle": ("cx", "cy"), "text": ("x", "y")}.get(element.tag, ("", ""))
    if moved and x and not {x, y} & element.attrib.keys():
        element.attrib.pop("transform")
        element.attrib |= {x: moved[1], y: moved[2]}
    if "opacity" in element.attrib and "fill" not in element.attrib and element.tag in ("line", "path"):
        element.attrib["stroke-opacity"] = element.attrib.pop("opacity")  # the same for a line, and inherited


def _prune(element: ET.Element, inherited: Mapping[str, str]) -> None:
    """Take away what is said further up, and groups that say nothing."""
    for child in list(element):
        for name, value in list(child.attrib.items()):
            if value == inherited.get(name, _ABSENT.get(name)):
                del child.attrib[name]
        within = {**inherited, **{name: value for name, value in child.attrib.items() if name in inherited}}
        if not within["stroke"] and child.tag != "g":
            for name in ("stroke-width", "stroke-opacity", "stroke-dasharray"):
                child.attrib.pop(name, None)
        _prune(child, within)
        if child.tag == "g" and not child.attrib:
            place = list(element).index(child)
            element.remove(child)
            for at, grandchild in enumerate(list(child)):
                element.insert(place + at, grandchild)


def _gather(element: ET.Element) -> None:
    """Put runs of marks that look alike into a group that says how."""
    made = list(_gathered(element))
    for child in list(element):
        element.remove(child)
    element.extend(made)


def _gathered(element: ET.Element) -> Iterator[ET.Element]:
    for (tag, look), run in groupby(list(element), lambda child: (child.tag, _look(child))):
        marks = list(run)
        if tag == "g" or len(marks) < _RUN or not look:
            yield from marks
            continue
        group = ET.Element("g", dict(look))
        for mark in marks:
            for name, _ in look:
                del mark.attrib[name]
            group.append(mark)
        yield group


def _look(element: ET.Element) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in element.attrib.items() if name in _INHERITED)
