"""Charts as static SVG: drawn once as a template by Altair, filled with each panel's numbers, rendered by vl-convert.

Only numbers and the words of a template enter a chart. Whatever comes from data (concepts, checkpoint names, sites) is written around
it, as HTML text, so no label is ever parsed by Vega, measured by the renderer or spliced into SVG.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from neuronlens.artifact import finite
from neuronlens.errors import NeuronLensError
from neuronlens.pages.terse import terse
from neuronlens.pages.theme import chart_config

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart

Rows = Sequence[Mapping[str, Any]]

_SVG = "http://www.w3.org/2000/svg"
_ELEMENTS = {"svg", "g", "path", "line", "text", "rect", "tspan"}
_ATTRIBUTES = {
    *(
        "d",
        "dy",
        "fill",
        "fill-opacity",
        "font-family",
        "font-size",
        "font-weight",
        "height",
        "opacity",
        "stroke",
        "stroke-dasharray",
    ),
    *(
        "stroke-opacity",
        "stroke-width",
        "text-anchor",
        "transform",
        "viewBox",
        "width",
        "x",
        "x1",
        "x2",
        "y",
        "y1",
        "y2",
    ),
}


@dataclass(frozen=True)
class Figure:
    """A chart with its numbers, drawn for a page or handed on to a notebook.

    Attributes:
        template: makes the chart, whose data are named; the same object for all figures of a kind.
        data: name -> rows.
    """

    template: Callable[[], Chart]
    data: Mapping[str, Rows]

    def chart(self) -> Chart:
        """The Altair chart, in the theme of the pages."""
        chart = self.template()
        chart.datasets = {name: list(rows) for name, rows in self.data.items()}
        chart.config = chart_config()
        return chart

    def svg(self) -> str:
        """The chart as inert SVG."""
        compiled = _compiled(self.template)
        filled = [
            {**source, "values": list(self.data[source["name"]])} if source["name"] in self.data else source
            for source in compiled["data"]
        ]
        return _drawn(json.dumps(finite({**compiled, "data": filled}), allow_nan=False))


@lru_cache(maxsize=512)
def _drawn(vega: str) -> str:
    """The inert SVG of a Vega specification (JSON). A page is written more than once: as its stage ends, and with its neighbours."""
    import vl_convert

    svg: str = vl_convert.vega_to_svg(vega, allowed_base_urls=[])
    return inert_svg(svg)


@cache
def _compiled(template: Callable[[], Chart]) -> dict[str, Any]:
    """The Vega behind an Altair chart. Compiling takes far longer than drawing, so a template is compiled once for all its panels."""
    import vl_convert

    spec = template().to_dict()
    spec["config"] = chart_config()
    compiled: dict[str, Any] = vl_convert.vegalite_to_vega(spec)
    return compiled


def inert_svg(svg: str) -> str:
    """The SVG with nothing but shapes and text: no script, no link, no style, no event can be in what this returns.

    Raises:
        NeuronLensError: an element that no chart of ours has.
    """
    root = ET.fromstring(svg)
    for element in root.iter():
        name = element.tag.removeprefix(f"{{{_SVG}}}")
        if name not in _ELEMENTS:
            raise NeuronLensError(f"a chart came out with an unexpected <{name}> element")
        element.tag = name
        for attribute in set(element.attrib) - _ATTRIBUTES:
            del element.attrib[attribute]
    _prune(root)
    terse(root)
    width, height = (float(root.attrib.pop(side)) for side in ("width", "height"))
    root.attrib["viewBox"] = f"0 0 {width:g} {height:g}"
    root.attrib["width"] = f"{width:g}"
    return ET.tostring(root, encoding="unicode")


def _prune(element: ET.Element) -> None:
    """Drop the empty groups and paths that Vega leaves for interaction."""
    for child in list(element):
        _prune(child)
        empty_path = child.tag == "path" and (not child.get("d") or not {"fill", "stroke"} & set(child.attrib))
        if empty_path or (child.tag == "g" and not len(child)):
            element.remove(child)
