"""Charts are inert SVG with the colours that dark mode knows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from neuronlens.pages.figures.densities import BINS_DRAWN, drawn_bins, histogram
from neuronlens.pages.figures.effects import effects
from neuronlens.pages.figures.quantiles import POINTS, probabilities, quantile_plot
from neuronlens.pages.theme import COLOURS, variables
from neuronlens.streaming.histogram import Histogram


def _row(kind: str, main: bool = True, end: float | None = 3.0) -> dict[str, object]:
    spread = {f"{group}_{side}": end for group in ("target", "complement") for side in ("low", "high")}
    return {"kind": kind, "main": main, "tag": "R", "target": 2.0, "complement": 1.0, **spread}


def test_every_colour_of_a_chart_turns_in_dark_mode() -> None:
    svg = effects([_row("gaussian"), _row("full", main=False), _row("random_neurons")], (-5, 5), (-5, 5)).svg()
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours <= {light for light, _ in COLOURS.values()}
    style = variables()
    assert all(f'[fill="{light}"]{{fill:{dark}}}' in style for light, dark in COLOURS.values())


def test_light_colours_are_distinct_so_that_each_has_one_dark_partner() -> None:
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def test_only_main_methods_with_an_interval_have_crosses() -> None:
    def lines(rows: list[dict[str, object]]) -> int:
        return sum(element.tag == "line" for element in ET.fromstring(effects(rows, (-5, 5), (-5, 5)).svg()).iter())

    bare = lines([_row("gaussian", main=False)])
    assert lines([_row("gaussian")]) == bare + 2
    assert lines([_row("gaussian", end=None)]) == bare


@pytest.mark.parametrize("bins", [1, 2, 31, 32, 33, 63, 64, 65, 128])
def test_the_bins_drawn_are_few_equal_and_hold_every_row_where_it_is(bins: int) -> None:
    values = np.random.default_rng(bins).integers(0, 9, size=(2, bins))
    given = 0.25 * np.arange(bins + 1) - 3
    edges, *drawn = drawn_bins(given, *values)
    assert min(bins, BINS_DRAWN / 2) < len(edges) - 1 + (bins <= BINS_DRAWN) <= BINS_DRAWN + 1
    assert len(set(np.diff(edges))) == 1
    assert edges[0] == given[0]
    assert edges[-2] < given[-1] <= edges[-1]
    middle = (given[:-1] + given[1:]) / 2
    for counts, merged in zip(values, drawn, strict=True):
        assert merged.tolist() == np.histogram(middle, edges, weights=counts)[0].tolist()


@pytest.mark.parametrize("value", [0.0, 40.3, -40.3, 2.0**-149, 3.4e38])
def test_the_one_bin_of_a_constant_neuron_has_labels_that_can_be_read(value: float) -> None:
    bin_ = Histogram.of(np.full((1, 3), value, dtype=np.float32))
    edges = np.array([bin_.low[0], bin_.low[0] + bin_.width[0]])
    svg = histogram(edges, np.array([3]), np.array([5]), value, value).svg()
    labels = [element.text or "" for element in ET.fromstring(svg).iter("text")]
    assert "activation" in labels
    assert max(map(len, labels)) <= len("share of rows")


def test_quantiles_of_a_gaussian_lie_on_the_diagonal() -> None:
    n = 4000
    values = np.sort(np.random.default_rng(0).normal(3, 2, size=n))
    shares = probabilities(n)
    rows = quantile_plot([float(np.quantile(values, share)) for share in shares], 3.0, 2.0, n).data["quantiles"]
    assert len(rows) == POINTS
    assert shares == sorted(shares)
    for row, share in zip(rows, shares, strict=True):
        if 0.05 < share < 0.95:
            assert row["observed"] == pytest.approx(row["expected"], abs=0.15)


@pytest.mark.parametrize(("n", "std"), [(1, 0.0), (2, 1.0), (5, 0.0)])
def test_few_or_constant_values_have_a_plot(n: int, std: float) -> None:
    figure = quantile_plot([1.0] * len(probabilities(n)), 1.0, std, n)
    assert figure.svg().startswith("<svg")
