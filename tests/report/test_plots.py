"""Charts are inert SVG with the colours that dark mode knows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from neuronlens.errors import NeuronLensError
from neuronlens.report.plots import effects_chart, inert_svg
from neuronlens.report.theme import COLOURS, variables


def _row(kind: str, main: bool = True, end: float | None = 3.0) -> dict[str, object]:
    spread = {f"{group}_{side}": end for group in ("target", "complement") for side in ("low", "high")}
    return {"kind": kind, "main": main, "tag": "R", "target": 2.0, "complement": 1.0, **spread}


def test_every_colour_of_a_chart_turns_in_dark_mode() -> None:
    svg = effects_chart([_row("gaussian"), _row("full", main=False), _row("random_neurons")], -5, 5)
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours <= {light for light, _ in COLOURS.values()}
    style = variables()
    assert all(f'[fill="{light}"]{{fill:{dark}}}' in style for light, dark in COLOURS.values())


def test_light_colours_are_distinct_so_that_each_has_one_dark_partner() -> None:
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def test_only_main_methods_with_an_interval_have_crosses() -> None:
    def lines(rows: list[dict[str, object]]) -> int:
        return sum(element.tag == "line" for element in ET.fromstring(effects_chart(rows, -5, 5)).iter())

    bare = lines([_row("gaussian", main=False)])
    assert lines([_row("gaussian")]) == bare + 2
    assert lines([_row("gaussian", end=None)]) == bare


@pytest.mark.parametrize("element", ["script", "foreignObject", "image", "style", "a", "animate"])
def test_an_active_element_is_refused(element: str) -> None:
    with pytest.raises(NeuronLensError, match=element):
        inert_svg(f'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"><{element}/></svg>')


def test_events_links_and_styles_are_dropped() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="x()"><text style="x" href="y" fill="#000">1</text></svg>'
    assert inert_svg(svg) == '<svg viewBox="0 0 9 9" width="9"><text fill="#000">1</text></svg>'
