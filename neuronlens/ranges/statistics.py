"""Statistics of every neuron of a site per concept, vectorised over neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from neuronlens.activations.ordinary import Ordinary
from neuronlens.activations.store import Activations, Floats
from neuronlens.artifact import hash_value
from neuronlens.errors import DatasetError
from neuronlens.ranges.discriminative import separation_scores
from neuronlens.ranges.examples import EXAMPLES, Thresholds
from neuronlens.ranges.histogram import Histogram, aligned
from neuronlens.ranges.moments import Array, Moments, merge_all
from neuronlens.ranges.normality import Normality, sorted_normality
from neuronlens.ranges.quantiles import sorted_quantiles
from neuronlens.ranges.saliency import SALIENCIES, auroc_scores, fit_probe, random_scores
from neuronlens.sites import Site

Ints = npt.NDArray[np.int64]

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def no_tokens(neurons: int) -> Ordinary:
    """Of a site that was read at the pooled position alone."""
    return Ordinary(np.empty((neurons, 0), dtype=np.float32), ())


@dataclass(frozen=True)
class SiteStatistics:
    """What the fit knows of a site. Concepts and neurons are the axes.

    Attributes:
        site: which.
        concepts: [C].
        moments, rest: [C] of a concept's rows, and of all other concepts' rows pooled.
        quantiles: [C, Q, D] at `QUANTILES`.
        normality: [C] tests of a concept's rows.
        histogram: [C, BINS, D] counts, on edges that a neuron's concepts share (see `neuronlens.ranges.histogram`).
        low, high: [D] outer edges of the histograms: equal bins, the last ones empty where fewer are needed.
        values: [C] arrays [D, n_c], the fit rows themselves.
        rows: [C] arrays [n_c], which rows of the dataset these are.
        extremes: what makes a row one of a neuron's examples.
        ordinary: tokens of ordinary text.
        seed: behind the scores that draw lots.
        notes: what a reader of the scores computed so far should know.
    """

    site: Site
    concepts: tuple[str, ...]
    moments: tuple[Moments, ...]
    rest: tuple[Moments, ...]
    quantiles: Array
    normality: tuple[Normality, ...]
    histogram: npt.NDArray[np.int32]
    low: Array
    high: Array
    values: tuple[Floats, ...]
    rows: tuple[Ints, ...]
    extremes: Thresholds
    ordinary: Ordinary
    seed: int = 0
    notes: list[str] = field(default_factory=list, compare=False)
    _scores: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """Number of neurons."""
        return len(self.low)

    def index(self, concept: str) -> int:
        """Place of a concept."""
        return self.concepts.index(concept)

    def complement(self, concept: str, neurons: Ints | slice = slice(None)) -> Floats:
        """[D, n] fit rows of all other concepts, in the order of the concepts, or [K, n] some neurons of them."""
        at = self.index(concept)
        return np.concatenate([part[neurons] for j, part in enumerate(self.values) if j != at], axis=1)

    def saliency(self, name: str, concept: str) -> Array:
        """[D] scores of the site's neurons for a concept (see `neuronlens.ranges.saliency`). Computed at first use."""
        return np.asarray(self.saliencies(name)[self.index(concept)])

    def saliencies(self, name: str) -> Array:
        """[C, D] scores for all concepts."""
        if name not in self._scores:
            self._scores[name] = self._score(name)
        return self._scores[name]

    def _score(self, name: str) -> Array:
        if name in SALIENCIES:
            return np.stack([SALIENCIES[name](own, rest) for own, rest in zip(self.moments, self.rest, strict=True)])
        if name == "auroc":
            return auroc_scores(self.values)
        if name == "probe":
            probe = fit_probe(self.values, self.seed)
            if not probe.converged:
                self.notes.append(f"the probe that ranks neurons had not settled after {probe.iterations} passes")
            return probe.scores
        if name == "separation":
            return np.stack(
                [
                    separation_scores(own, self.complement(concept), self.ordinary.without(concept))
                    for own, concept in zip(self.values, self.concepts, strict=True)
                ]
            )
        return np.stack([random_scores(self.width, self.seed, self.site, concept) for concept in self.concepts])

    def draw(self, *purpose: object) -> np.random.Generator:
        """Random numbers that depend on the seed, the site and what they are for, and on nothing else."""
        return np.random.default_rng(int(hash_value([self.seed, str(self.site), *map(str, purpose)]), 16))


def fit_rows(activations: Activations, rows: str, concepts: Sequence[str]) -> dict[str, Ints]:
    """Indices of the rows of each concept that a fit sees.

    Args:
        rows: `correct` keeps those the unedited model predicts right, `all` keeps all.

    Raises:
        DatasetError: a concept keeps fewer than two.
    """
    in_fit = np.array([split == "fit" for split in activations.split])
    if rows == "correct":
        in_fit &= activations.correct
    places = {name: place for place, name in enumerate(concepts)}
    place = np.array([places.get(name, -1) for name in activations.concept])  # NumPy's text drops NULs at its end
    kept = {name: np.flatnonzero(in_fit & (place == own)) for name, own in places.items()}
    for name, index in kept.items():
        if len(index) < 2:
            what = "predicted right by the model " if rows == "correct" else ""
            raise DatasetError(
                f"concept {name!r} has {len(index)} fit rows {what}- a range needs at least two",
                where="fit.rows",
                cure="Use fit.rows=all, or add rows." if rows == "correct" else "Add rows.",
            )
    return kept


def fit_statistics(
    activations: Activations,
    site: Site | str,
    *,
    rows: str = "correct",
    ordinary: Ordinary | None = None,
    seed: int = 0,
) -> SiteStatistics:
    """Every statistic of every neuron of a site, per concept, vectorised over neurons.

    Args:
        rows: `correct` fits on the rows that the unedited model predicts right, `all` on all.
        ordinary: tokens of ordinary text, for ranges that must not fire on them.
        seed: behind the scores that draw lots.

    Raises:
        DatasetError: a concept has fewer than two rows to fit on.
    """
    where = Site.parse(site) if isinstance(site, str) else site
    concepts = tuple(sorted(set(activations.concept)))
    kept = fit_rows(activations, rows, concepts)
    values = tuple(activations.values[where][:, kept[name]] for name in concepts)
    moments = tuple(Moments.of(part) for part in values)
    rest = tuple(merge_all([part for j, part in enumerate(moments) if j != i]) for i in range(len(concepts)))
    quantiles, tests, low_ends, high_ends = [], [], [], []
    for part in values:
        ordered = np.sort(part, axis=1)
        low_ends.append(ordered[:, :EXAMPLES].copy())  # a view would keep all values alive
        high_ends.append(ordered[:, -EXAMPLES:].copy())
        quantiles.append(sorted_quantiles(ordered, QUANTILES))
        tests.append(sorted_normality(ordered))
    together, counts = aligned([Histogram.of(part) for part in values])
    return SiteStatistics(
        where,
        concepts,
        moments,
        rest,
        np.stack(quantiles),
        tuple(tests),
        counts.astype(np.int32),
        together.low,
        together.high,
        values,
        tuple(activations.row[kept[name]] for name in concepts),
        Thresholds.of(low_ends, high_ends),
        no_tokens(len(together.low)) if ordinary is None else ordinary,
        seed,
    )
