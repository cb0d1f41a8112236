"""Charts are inert SVG, and the same chart for a page and for a notebook."""

from __future__ import annotations

import pytest
import vl_convert

from neuronlens.errors import NeuronLensError
from neuronlens.pages.drawing import inert_svg
from neuronlens.pages.figures.densities import gaussians


def test_a_notebook_draws_what_the_page_draws() -> None:
    figure = gaussians((0.0, 1.0), (2.0, 0.5))
    assert inert_svg(vl_convert.vegalite_to_svg(figure.chart().to_dict())) == figure.svg()


@pytest.mark.parametrize("element", ["script", "foreignObject", "image", "style", "a", "animate"])
def test_an_active_element_is_refused(element: str) -> None:
    with pytest.raises(NeuronLensError, match=element):
        inert_svg(f'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"><{element}/></svg>')


def test_events_links_and_styles_are_dropped() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="x()"><text style="x" href="y" fill="#000">1</text></svg>'
    assert inert_svg(svg) == '<svg viewBox="0 0 9 9" width="9"><text fill="#000">1</text></svg>'
