"""Charts as static SVG: drawn once as a template by Altair, filled with each panel's numbers, rendered by vl-convert.

Only numbers and the words of this file enter a chart. Whatever comes from data (concepts, checkpoint names, sites) is written around it, as
HTML text, so no label is ever parsed by Vega, measured by the renderer or spliced into SVG.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neuronlens.errors import NeuronLensError
from neuronlens.report.neurons import Card, Counts
from neuronlens.report.theme import SHAPES, chart_config, light

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart

Rows = Sequence[Mapping[str, Any]]

BINS_DRAWN = 32
_CURVE = 80  # points of a drawn density
_SVG = "http://www.w3.org/2000/svg"
_ELEMENTS = {"svg", "g", "path", "line", "text", "rect", "tspan"}
_ATTRIBUTES = {
    *(
        "d",
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


def effects_chart(rows: Rows, low: float, high: float) -> str:
    """Complement drop (x) against target drop (y) of a site's methods, in percentage points.

    Args:
        rows: per method `kind`, `tag` (a letter beside it), `main` (whether findings speak of it: only these have crosses), `target`,
            `complement` and the ends of their intervals, `target_low` and so on, None where there is none.
        low, high: what both axes must hold, so that panels can be compared.
    """
    corners = [{"complement": end, "target": end} for end in (low, high)]
    return _render(_effects_template, {"methods": rows, "corners": corners})


def histogram_chart(card: Card) -> str:
    """A neuron's activations on the concept and on the others, each as a share of its rows per bin, and the range as a band."""
    edges, target, complement = drawn_bins(card)
    bins = []
    for group, counts in (("target", target), ("complement", complement)):
        shares = counts / max(1, int(counts.sum()))
        # a step area needs the right edge of the last bin as well
        bins += [
            {"group": group, "edge": float(edge), "share": float(share)}
            for edge, share in zip(edges, [*shares, shares[-1]], strict=True)
        ]
    band = []
    if card.lower is not None and card.upper is not None:
        low, high = np.clip([card.lower, card.upper], edges[0], edges[-1])
        band = [{"low": float(low), "high": float(high)}]
    return _render(_histogram_template, {"bins": bins, "band": band})


def gaussians_chart(before: tuple[float, float], after: tuple[float, float]) -> str:
    """A neuron's activations on a concept's rows before and after, as the Gaussians that sum them up.

    Args:
        before, after: mean and std; a std of 0 is drawn as a narrow peak.
    """
    widest = max(before[1], after[1]) or max(abs(before[0] - after[0]), 1e-6)
    low = min(mean - 3.5 * max(std, widest / 20) for mean, std in (before, after))
    high = max(mean + 3.5 * max(std, widest / 20) for mean, std in (before, after))
    at = np.linspace(low, high, _CURVE)
    bins = []
    for group, (mean, std) in (("complement", before), ("target", after)):
        narrow = max(std, widest / 20)
        heights = np.exp(-(((at - mean) / narrow) ** 2) / 2) / narrow
        bins += [
            {"group": group, "edge": float(x), "share": float(y)} for x, y in zip(at, heights * widest, strict=True)
        ]
    return _render(_gaussians_template, {"bins": bins})


def drawn_bins(card: Card) -> tuple[npt.NDArray[np.float64], Counts, Counts]:
    """Edges and both counts of a card in at most `BINS_DRAWN` bins, neighbours put together: a small panel shows no more."""
    together = math.ceil(len(card.target) / BINS_DRAWN)
    starts = np.arange(0, len(card.target), together)
    # all of one width, the last one too, so that a share is as high as it is dense
    edges = card.edges[0] + together * (card.edges[1] - card.edges[0]) * np.arange(len(starts) + 1)
    return edges, np.add.reduceat(card.target, starts), np.add.reduceat(card.complement, starts)


def _effects_template() -> Chart:
    import altair as alt

    kinds = list(SHAPES)
    axis = alt.Axis(tickCount=5, format="d")
    x = alt.X("complement:Q", title="drop on the other concepts (points)", axis=axis)
    y = alt.Y("target:Q", title="drop on the target (points)", axis=axis)
    colour = alt.Color("kind:N", legend=None).scale(domain=kinds, range=[light(kind) for kind in kinds])
    shape = alt.Shape("kind:N", legend=None).scale(domain=kinds, range=[SHAPES[kind] for kind in kinds])
    methods, main = alt.Chart(alt.NamedData("methods")), alt.datum.main
    crosses = methods.transform_filter(main)
    layers = [
        alt.Chart(alt.NamedData("corners"))
        .mark_line(color=light("muted"), strokeDash=[4, 4], opacity=0.7)
        .encode(x, y),
        methods.transform_filter(~main)
        .mark_point(size=28, filled=False, opacity=0.55, strokeWidth=1.2)
        .encode(x, y, colour, shape),
        crosses.mark_rule(strokeWidth=1.6, opacity=0.8).encode(
            x="complement_low:Q", x2="complement_high", y="target:Q", color=colour
        ),
        crosses.mark_rule(strokeWidth=1.6, opacity=0.8).encode(
            y="target_low:Q", y2="target_high", x="complement:Q", color=colour
        ),
        crosses.mark_point(size=90, filled=True, opacity=1).encode(x, y, colour, shape),
        crosses.mark_text(dx=10, dy=-9, fontSize=11, color=light("ink")).encode(x, y, text="tag:N"),
    ]
    return alt.layer(*layers).properties(width=250, height=250)


def _histogram_template() -> Chart:
    import altair as alt

    # float32 tells no more digits apart, and the bin of a neuron that is always 0 would be labelled with 20 of them
    axis = alt.Axis(tickCount=4, grid=False, format=".7~g")
    x = alt.X("edge:Q", title="activation", axis=axis).scale(zero=False, nice=False)
    y = alt.Y("share:Q", title="share of rows", axis=alt.Axis(tickCount=3, format=".0%")).stack(None)
    groups = ["complement", "target"]
    colour = alt.Color("group:N", legend=None, sort=groups).scale(
        domain=groups, range=[light(group) for group in groups]
    )
    dash = alt.StrokeDash("group:N", legend=None).scale(domain=groups, range=[[3, 2], [1, 0]])
    bins = alt.Chart(alt.NamedData("bins"))
    layers = [
        alt.Chart(alt.NamedData("band")).mark_rect(color=light("shade"), opacity=0.8).encode(x="low:Q", x2="high"),
        bins.mark_area(interpolate="step-after", opacity=0.25).encode(x, y, colour),
        bins.mark_line(interpolate="step-after", strokeWidth=1.5).encode(x, y, colour, dash),
    ]
    return alt.layer(*layers).properties(width=155, height=95)


def _gaussians_template() -> Chart:
    import altair as alt

    x = alt.X("edge:Q", title="activation", axis=alt.Axis(tickCount=4, grid=False, format=".7~g")).scale(
        zero=False, nice=False
    )
    y = alt.Y("share:Q", title="density", axis=alt.Axis(labels=False, ticks=False, grid=False)).stack(None)
    groups = ["complement", "target"]
    colour = alt.Color("group:N", legend=None, sort=groups).scale(
        domain=groups, range=[light(group) for group in groups]
    )
    dash = alt.StrokeDash("group:N", legend=None).scale(domain=groups, range=[[3, 2], [1, 0]])
    bins = alt.Chart(alt.NamedData("bins"))
    layers = [
        bins.mark_area(opacity=0.2).encode(x, y, colour),
        bins.mark_line(strokeWidth=1.5).encode(x, y, colour, dash),
    ]
    return alt.layer(*layers).properties(width=155, height=95)


def _render(template: Callable[[], Chart], data: Mapping[str, Rows]) -> str:
    """A template with its named data filled in, as inert SVG."""
    import vl_convert

    compiled = _compiled(template)
    filled = [
        {**source, "values": list(data[source["name"]])} if source["name"] in data else source
        for source in compiled["data"]
    ]
    svg: str = vl_convert.vega_to_svg({**compiled, "data": filled}, allowed_base_urls=[])
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
