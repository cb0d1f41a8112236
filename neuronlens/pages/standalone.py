"""Charts that no page stands around, in notebooks and files: with a title, a legend and a background of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuronlens.pages.drawing import Figure, inert_svg
from neuronlens.pages.text import visible
from neuronlens.pages.theme import chart_config, light

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart

Words = Mapping[Any, str]
Legends = Mapping[str, Words]
"""Field that a colour, shape or dash stands for -> its values that are drawn, with what they are called."""

_CHANNELS = ("color", "shape", "strokeDash")
TITLE_LENGTH = 80
"""Characters of a title or a note; what is longer is cut."""
_NAME_LENGTH = 40


def stand_alone(
    figure: Figure, title: str, legends: Legends, notes: Sequence[str] = (), axes: Legends | None = None
) -> Chart:
    """The Altair chart of a figure.

    Args:
        title: what it shows; text from data is spelt out.
        legends: of the fields that tell marks apart.
        notes: lines below the title; likewise.
        axes: what the values of a field are called along the axis that it is drawn on; likewise.
    """
    import altair as alt

    chart = figure.chart()
    for layer in chart.layer:
        for channel in _CHANNELS:
            encoding = getattr(layer.encoding, channel)
            field = str(getattr(encoding, "shorthand", "")).partition(":")[0]
            if field in legends:
                encoding.legend = _legend(legends[field])
        for channel in (layer.encoding.x, layer.encoding.y):
            field = str(getattr(channel, "shorthand", "")).partition(":")[0]
            if axes and field in axes:
                channel["axis"].labelExpr = _called(axes[field])
    shown, *below = (visible(text, TITLE_LENGTH) for text in (title, *notes))
    chart.title = alt.Title(shown, subtitle=below) if below else shown
    chart.config = config()
    return chart


def side_by_side(charts: Sequence[Chart], columns: int) -> alt.ConcatChart:
    """Charts that stand alone as one."""
    import altair as alt

    parts: list[alt.LayerChart] = []
    data: dict[str, Any] = {}
    for place, chart in enumerate(charts):
        spec = chart.to_dict()
        data |= {f"{name}-{place}": rows for name, rows in spec.pop("datasets").items()}
        for name in ("$schema", "config"):
            del spec[name]
        for part in (spec, *spec["layer"]):
            if "data" in part:  # on the chart itself where all of its layers have the same
                part["data"]["name"] += f"-{place}"
        parts.append(alt.LayerChart.from_dict(spec))
    together = alt.concat(*parts, columns=columns)
    together.datasets, together.config = data, config()
    return together


def config() -> dict[str, Any]:
    """Vega-Lite's `config` of the pages, on the page's own background."""
    title = {"color": light("ink"), "fontSize": 13, "anchor": "start", "offset": 10, "subtitleColor": light("muted")}
    legend = {"labelColor": light("ink"), "labelFontSize": 12, "labelLimit": 300, "symbolOpacity": 1}
    return {**chart_config(), "background": light("page"), "padding": 8, "title": title, "legend": legend}


def svg_file(chart: alt.TopLevelMixin) -> str:
    """A chart as an inert SVG document: shapes and text, and nothing that acts or is fetched."""
    import vl_convert

    svg = inert_svg(vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[]))
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _legend(words: Words) -> alt.Legend:
    import altair as alt

    return alt.Legend(values=list(words), labelExpr=_called(words), title=None)


def _called(words: Words) -> str:
    """A Vega expression: what a value is called."""
    return f"{json.dumps({str(value): visible(name, _NAME_LENGTH) for value, name in words.items()})}[datum.label]"
