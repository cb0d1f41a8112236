"""Colours and type of the report, shared by the charts and the style sheet.

Okabe and Ito's palette, darkened until words in a colour have a contrast of 4.5, tells every kind of range apart for all common colour
vision; shapes repeat what colour says. Charts are drawn in the light colours, as plain hexadecimal attributes that any viewer understands;
in dark mode the style sheet replaces each of them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

COLOURS = MappingProxyType(
    {  # name: (light, dark)
        "ink": ("#1b1f24", "#e8eaed"),
        "muted": ("#5b6470", "#a4adb8"),
        "line": ("#d5dae1", "#3a424d"),
        "page": ("#ffffff", "#14181d"),
        "panel": ("#f5f7f9", "#1d232a"),
        "gaussian": ("#0072b2", "#56b4e9"),
        "full": ("#c44a00", "#f0894a"),
        "quantile": ("#35759d", "#8cc7ea"),
        "discriminative": ("#007a5e", "#4fd0ae"),
        "tuned": ("#8a2f6b", "#e29ac8"),
        "random_neurons": ("#6b7280", "#9aa3af"),
        "random_ranges": ("#6d717d", "#9ba2ae"),
        "other_concept": ("#6e727e", "#9ca1ad"),
        "leace": ("#7a6000", "#d9b93b"),
        "target": ("#0071b1", "#58b6eb"),
        "complement": ("#b35a00", "#e69f00"),
        "shade": ("#cfe6f5", "#1f4a66"),
        "good": ("#00724f", "#3fc79a"),
        "bad": ("#b3261e", "#ff8a80"),
    }
)
SHAPES = MappingProxyType(
    {
        "gaussian": "circle",
        "quantile": "circle",
        "discriminative": "circle",
        "full": "square",
        "tuned": "diamond",
        "random_neurons": "triangle-up",
        "random_ranges": "triangle-down",
        "other_concept": "triangle-left",
        "leace": "cross",
    }
)
FONT = "Helvetica, Arial, sans-serif"


def light(name: str) -> str:
    """The colour as charts are drawn in it."""
    return COLOURS[name][0]


def variables() -> str:
    """The palette as CSS custom properties, light first, then what dark mode puts in its place."""
    blocks = ["".join(f"--{name.replace('_', '-')}:{pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1)]
    charts = "".join(
        f'svg [{attribute}="{pair[0]}"]{{{attribute}:{pair[1]}}}'
        for pair in COLOURS.values()
        for attribute in ("fill", "stroke")
    )
    return f":root{{color-scheme:light dark;{blocks[0]}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{blocks[1]}}}{charts}}}\n"


def chart_config() -> dict[str, Any]:
    """Vega-Lite's `config`: quiet axes, no background, no accessibility attributes of its own (the page's captions and tables say more)."""
    axis = {
        "domainColor": light("muted"),
        "gridColor": light("line"),
        "gridDash": [2, 3],
        "labelColor": light("muted"),
        "labelFontSize": 12,
        "tickColor": light("muted"),
        "titleColor": light("ink"),
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {"aria": False, "background": "transparent", "font": FONT, "view": {"stroke": None}, "axis": axis}
