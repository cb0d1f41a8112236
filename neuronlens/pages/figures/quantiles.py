"""Q-Q plots: how far a neuron's activations on a concept are from the Gaussian that its range takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from neuronlens.pages.drawing import Figure
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    from neuronlens.pages.drawing import Chart

POINTS = 33
"""Quantiles that are drawn, at most."""


def probabilities(n: int) -> list[float]:
    """Where quantiles of n values are drawn: at the middles of as many equal shares, at most `POINTS`."""
    count = min(n, POINTS)
    return [(place + 0.5) / count for place in range(count)]


def quantile_plot(observed: Sequence[float], mean: float, std: float, n: int) -> Figure:
    """Quantiles of a Gaussian (x) against those observed (y); on the diagonal both agree.

    Args:
        observed: at `probabilities(n)`.
        mean, std: of the Gaussian; a std of 0 puts all on one place.
        n: how many values there are.
    """
    normal = NormalDist()
    rows = [
        {"expected": mean + std * normal.inv_cdf(share), "observed": value}
        for share, value in zip(probabilities(n), observed, strict=True)
    ]
    ends = [row[axis] for row in rows for axis in ("expected", "observed")]
    corners = [{"expected": end, "observed": end} for end in (min(ends), max(ends))]
    return Figure(_quantile_plot, {"quantiles": rows, "corners": corners})


def _quantile_plot() -> Chart:
    import altair as alt

    axis = alt.Axis(tickCount=3, grid=False, format=".7~g")
    x = alt.X("expected:Q", title="Gaussian", axis=axis).scale(zero=False, nice=False)
    y = alt.Y("observed:Q", title="observed", axis=axis).scale(zero=False, nice=False)
    layers = [
        alt.Chart(alt.NamedData("corners")).mark_line(color=light("muted"), strokeDash=[4, 4]).encode(x, y),
        alt.Chart(alt.NamedData("quantiles"))
        .mark_point(size=12, filled=True, opacity=0.9, color=light("target"))
        .encode(x, y),
    ]
    return alt.layer(*layers).properties(width=95, height=95)
