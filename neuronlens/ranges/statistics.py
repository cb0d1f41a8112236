"""Statistics of every neuron of a site per concept, vectorised over neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from neuronlens.activations.ordinary import Ordinary
from neuronlens.activations.store import Activations, Floats
from neuronlens.artifact import hash_value
from neuronlens.errors import DatasetError, UserError
from neuronlens.ranges.discriminative import Densities
from neuronlens.ranges.examples import Thresholds
from neuronlens.ranges.normality import Normality, sorted_normality
from neuronlens.ranges.ordered import Ordered
from neuronlens.ranges.quantiles import sorted_quantiles
from neuronlens.ranges.saliency import SALIENCIES, auroc_scores, binned_auroc_scores, fit_probe, random_scores
from neuronlens.sites import Site
from neuronlens.streaming.distribution import Distribution
from neuronlens.streaming.extremes import EXAMPLES, Extremes
from neuronlens.streaming.histogram import Histogram, aligned
from neuronlens.streaming.moments import Array, Moments, merge_all
from neuronlens.streaming.summary import Summary

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
        histogram: [C, BINS, D] counts, on edges that a neuron's concepts share (see `neuronlens.streaming.histogram`).
        low, high: [D] outer edges of the histograms: equal bins, the last ones empty where fewer are needed.
        pooled: [D, n] the fit rows themselves, concept after concept; no columns where they were not kept.
        rows: [C] arrays [n_c], which rows of the dataset these are; nothing where they were not kept.
        extremes: what makes a row one of a neuron's examples; these themselves where rows were not kept.
        ordinary: tokens of ordinary text.
        seed: behind the scores that draw lots.
        distributions: [C] of rows that were not kept; nothing where they were.
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
    pooled: Floats
    rows: tuple[Ints, ...]
    extremes: Thresholds | Extremes
    ordinary: Ordinary
    seed: int = 0
    distributions: tuple[Distribution, ...] = ()
    notes: list[str] = field(default_factory=list, compare=False)
    _scores: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)
    _ordered: dict[str, Ordered] = field(default_factory=dict, repr=False, compare=False)
    _densities: dict[str, Densities] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """Number of neurons."""
        return len(self.low)

    def index(self, concept: str) -> int:
        """Place of a concept."""
        return self.concepts.index(concept)

    def need_rows(self, what: str) -> None:
        """Refuse what only rows can tell.

        Raises:
            UserError: their activations were not kept.
        """
        if self.distributions:
            raise UserError(
                f"{what} needs the activations of single rows, which were not kept",
                where=f"site {self.site}",
                cure="Audit again with --set extract.keep_rows=true.",
            )

    @cached_property
    def values(self) -> tuple[Floats, ...]:
        """[C] arrays [D, n_c], the fit rows of each concept; nothing where they were not kept."""
        return () if self.distributions else tuple(_parted(self.pooled, [part.n for part in self.moments]))

    @cached_property
    def all_ordered(self) -> Floats:
        """[D, n] all fit rows, those of each neuron ascending."""
        return np.sort(self.pooled, axis=1)

    def complement(self, concept: str, neurons: Ints | slice = slice(None)) -> Floats:
        """[D, n] fit rows of all other concepts, in the order of the concepts, or [K, n] some neurons of them."""
        self.need_rows("the complement")
        at = self.index(concept)
        start = sum(part.n for part in self.moments[:at])
        return np.delete(self.pooled[neurons], slice(start, start + self.moments[at].n), axis=1)

    def ordered(self, concept: str) -> Ordered:
        """The rows of a concept, of its complement, and ordinary tokens. Those of the concept asked for last are kept: all would be large.

        Raises:
            UserError: the activations of single rows were not kept.
        """
        if concept not in self._ordered:
            rest, tokens = self.complement(concept), self.ordinary.without(concept)
            self._ordered.clear()
            self._ordered[concept] = Ordered.of(self.values[self.index(concept)], rest, tokens)
        return self._ordered[concept]

    def densities(self, concept: str) -> Densities:
        """Of a concept, its complement and ordinary tokens; kept as `ordered` keeps them.

        Raises:
            UserError: the activations of single rows were not kept.
        """
        if concept not in self._densities:
            self._densities.clear()
            self._densities[concept] = Densities.of(self.ordered(concept))
        return self._densities[concept]

    def saliency(self, name: str, concept: str) -> Array:
        """[D] scores of the site's neurons for a concept (see `neuronlens.ranges.saliency`). Computed at first use.

        Raises:
            UserError: the scores need rows, whose activations were not kept.
            ValueError: there is no such saliency.
        """
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
            if self.distributions:
                return binned_auroc_scores(aligned([part.histogram for part in self.distributions])[1])
            return auroc_scores(self.values)
        if name == "probe":
            self.need_rows("a probe")
            probe = fit_probe(self.values, self.seed)
            if not probe.converged:
                self.notes.append(f"the probe that ranks neurons had not settled after {probe.iterations} passes")
            return probe.scores
        if name == "separation":
            self.need_rows("the saliency separation")
            return np.stack([self.densities(concept).separation() for concept in self.concepts])
        if name == "random":
            return np.stack([random_scores(self.width, self.seed, self.site, concept) for concept in self.concepts])
        raise ValueError(f"no saliency is called {name!r}")

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
            raise _too_few(name, len(index), rows)
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
    pooled = activations.values[where].take(np.concatenate([kept[name] for name in concepts]), axis=1)  # in C order
    values = _parted(pooled, [len(kept[name]) for name in concepts])
    moments = tuple(Moments.of(part) for part in values)
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
        _rest(moments),
        np.stack(quantiles),
        tuple(tests),
        counts.astype(np.int32),
        together.low,
        together.high,
        pooled,
        tuple(activations.row[kept[name]] for name in concepts),
        Thresholds.of(low_ends, high_ends),
        no_tokens(len(together.low)) if ordinary is None else ordinary,
        seed,
    )


def summed_statistics(
    summary: Summary,
    site: Site,
    concepts: Sequence[str],
    *,
    rows: str = "correct",
    ordinary: Ordinary | None = None,
    seed: int = 0,
) -> SiteStatistics:
    """The statistics of a site of whose rows a summary was kept.

    Moments, histograms and examples are those of the rows, quantiles estimates; there is no test of normality but Jarque-Bera's.

    Args:
        concepts: all of the data set, sorted.
        rows, ordinary, seed: see `fit_statistics`.

    Raises:
        DatasetError: a concept has fewer than two rows to fit on.
    """
    found = []
    for name in concepts:
        part = summary.concept(name, rows)
        if part is None or part.n < 2:
            raise _too_few(name, 0 if part is None else part.n, rows)
        found.append(part)
    moments = tuple(part.moments for part in found)
    together, counts = aligned([part.histogram.coarse() for part in found])
    untested = np.full(len(together.low), np.nan)
    return SiteStatistics(
        site,
        tuple(concepts),
        moments,
        _rest(moments),
        np.stack([part.quantiles(QUANTILES) for part in found]),
        tuple(Normality(*[untested] * 4) for _ in found),
        counts.astype(np.int32),
        together.low,
        together.high,
        np.empty((len(together.low), 0), dtype=np.float32),
        (),
        summary.ends(rows),
        no_tokens(len(together.low)) if ordinary is None else ordinary,
        seed,
        tuple(found),
    )


def _parted(pooled: Floats, counts: Sequence[int]) -> list[Floats]:
    """[C] views of the rows [D, n] of each concept, which stand one after the other."""
    return np.split(pooled, np.cumsum(counts)[:-1], axis=1)


def _rest(moments: Sequence[Moments]) -> tuple[Moments, ...]:
    """[C] of all other concepts' rows."""
    return tuple(merge_all([part for j, part in enumerate(moments) if j != i]) for i in range(len(moments)))


def _too_few(concept: str, count: int, rows: str) -> DatasetError:
    what = "predicted right by the model " if rows == "correct" else ""
    return DatasetError(
        f"concept {concept!r} has {count} fit rows {what}- a range needs at least two",
        where="fit.rows",
        cure="Use fit.rows=all, or add rows." if rows == "correct" else "Add rows.",
    )
