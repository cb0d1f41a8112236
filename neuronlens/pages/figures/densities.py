"""How activations of a neuron are spread: histograms with a range, and Gaussians before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neuronlens.pages.drawing import Figure
from neuronlens.pages.theme import light

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart

Edges = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS_DRAWN = 32
_CURVE = 80  # points of a drawn density


def histogram(
    edges: Edges, target: Counts, complement: Counts, lower: float | None = None, upper: float | None = None
) -> Figure:
    """A neuron's activations on a concept and on the others, each as a share of its rows per bin, and the range as a band.

    Args:
        edges: [B + 1] of equal bins.
        target, complement: [B] rows of the concept, and of all others.
        lower, upper: the range, closed; None where there is none.
    """
    edges, target, complement = drawn_bins(edges, target, complement)
    bins = []
    for group, counts in (("target", target), ("complement", complement)):
        shares = counts / max(1, int(counts.sum()))
        # a step area needs the right edge of the last bin as well
        bins += [
            {"group": group, "edge": float(edge), "share": float(share)}
            for edge, share in zip(edges, [*shares, shares[-1]], strict=True)
        ]
    band = []
    if lower is not None and upper is not None:
        low, high = np.clip([lower, upper], edges[0], edges[-1])
        band = [{"low": float(low), "high": float(high)}]
    return Figure(_histogram, {"bins": bins, "band": band})


def gaussians(before: tuple[float, float], after: tuple[float, float]) -> Figure:
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
    return Figure(_gaussians, {"bins": bins})


def drawn_bins(edges: Edges, target: Counts, complement: Counts) -> tuple[Edges, Counts, Counts]:
    """The same in at most `BINS_DRAWN` bins, neighbours put together: a small panel shows no more."""
    together = math.ceil(len(target) / BINS_DRAWN)
    starts = np.arange(0, len(target), together)
    # all of one width, the last one too, so that a share is as high as it is dense
    drawn = edges[0] + together * (edges[1] - edges[0]) * np.arange(len(starts) + 1)
    return drawn, np.add.reduceat(target, starts), np.add.reduceat(complement, starts)


def _histogram() -> Chart:
    import altair as alt

    x, colour, dash = _encodings()
    y = alt.Y("share:Q", title="share of rows", axis=alt.Axis(tickCount=3, format=".0%")).stack(None)
    bins = alt.Chart(alt.NamedData("bins"))
    layers = [
        alt.Chart(alt.NamedData("band")).mark_rect(color=light("shade"), opacity=0.8).encode(x="low:Q", x2="high"),
        bins.mark_area(interpolate="step-after", opacity=0.25).encode(x, y, colour),
        bins.mark_line(interpolate="step-after", strokeWidth=1.5).encode(x, y, colour, dash),
    ]
    return alt.layer(*layers).properties(width=155, height=95)


def _gaussians() -> Chart:
    import altair as alt

    x, colour, dash = _encodings()
    y = alt.Y("share:Q", title="density", axis=alt.Axis(labels=False, ticks=False, grid=False)).stack(None)
    bins = alt.Chart(alt.NamedData("bins"))
    layers = [
        bins.mark_area(opacity=0.2).encode(x, y, colour),
        bins.mark_line(strokeWidth=1.5).encode(x, y, colour, dash),
    ]
    return alt.layer(*layers).properties(width=155, height=95)


def _encodings() -> tuple[alt.X, alt.Color, alt.StrokeDash]:
    """Where an activation lies, and the look of both groups."""
    import altair as alt

    # float32 tells no more digits apart, and the bin of a neuron that is always 0 would be labelled with 20 of them
    axis = alt.Axis(tickCount=4, grid=False, format=".7~g")
    x = alt.X("edge:Q", title="activation", axis=axis).scale(zero=False, nice=False)
    groups = ["complement", "target"]
    colours = [light(group) for group in groups]
    colour = alt.Color("group:N", legend=None, sort=groups).scale(domain=groups, range=colours)
    dash = alt.StrokeDash("group:N", legend=None).scale(domain=groups, range=[[3, 2], [1, 0]])
    return x, colour, dash
