"""Charts of one neuron: of its card in an audit, or of statistics that have just been fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuronlens.pages.figures import densities, quantiles
from neuronlens.pages.standalone import side_by_side, stand_alone
from neuronlens.report.neurons.card import NeuronCard
from neuronlens.report.neurons.drawn import histogram_quantiles

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart
    from neuronlens.ranges.statistics import SiteStatistics

_GROUPS = {"group": {"target": "the concept", "complement": "all others"}}


def histogram(card: NeuronCard, concept: str | None = None) -> Chart:
    """A neuron's activations on a concept and on all others, with the concept's gaussian range as a band.

    Args:
        concept: the one with the highest d' unless told otherwise.

    Raises:
        UserError: no such concept.
    """
    part = card.concept(card.most_selective if concept is None else concept)
    target = np.array(part.counts)
    others = np.sum([one.counts for one in card.concepts], axis=0) - target
    band = (None, None) if part.gaussian is None else (part.gaussian.lower[0], part.gaussian.upper[0])
    drawn = densities.histogram(card.edges, target, others, *band)
    return stand_alone(drawn, part.concept, _GROUPS)


def histograms(card: NeuronCard, columns: int = 3) -> alt.ConcatChart:
    """`histogram` for every concept."""
    return side_by_side([histogram(card, part.concept) for part in card.concepts], columns)


def activations(statistics: SiteStatistics, neuron: int, *, tau: float = 2.0, columns: int = 3) -> alt.ConcatChart:
    """Of a neuron that has just been fitted: its activations on each concept and on all others, with the range mean ± tau std."""
    counts = statistics.histogram[:, :, neuron].astype(np.int64)
    spanned = int(np.flatnonzero(counts.sum(axis=0))[-1]) + 1
    edges = np.linspace(statistics.low[neuron], statistics.high[neuron], counts.shape[1] + 1)[: spanned + 1]
    charts = []
    for at, concept in enumerate(statistics.concepts):
        own, others = counts[at, :spanned], np.delete(counts, at, axis=0).sum(axis=0)[:spanned]
        mean, std = (float(part[neuron]) for part in (statistics.moments[at].mean, statistics.moments[at].std))
        drawn = densities.histogram(edges, own, others, mean - tau * std, mean + tau * std)
        charts.append(stand_alone(drawn, concept, _GROUPS))
    return side_by_side(charts, columns)


def quantile_plot(card: NeuronCard, concept: str | None = None) -> Chart:
    """How far a neuron's activations on a concept are from the Gaussian that its range takes them for; on the diagonal both agree.

    Args:
        concept: the one with the highest d' unless told otherwise.

    Raises:
        UserError: no such concept.
    """
    part = card.concept(card.most_selective if concept is None else concept)
    observed = histogram_quantiles(card.edges, np.array(part.counts), quantiles.probabilities(part.n))
    return stand_alone(quantiles.quantile_plot(observed, part.mean, part.std, part.n), part.concept, {})
