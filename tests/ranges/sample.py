"""What the tests of ranges share: activations of three concepts, ordinary tokens, and rows picked one at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from neuronlens.activations.ordinary import Ordinary
from neuronlens.activations.store import Activations
from neuronlens.ranges.discriminative import Densities
from neuronlens.ranges.ordered import Ordered
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import Site

SITE = Site(1, "resid_post")
CONCEPTS = ("a", "b", "c")
KINDS = ("gaussian", "quantile", "discriminative", "full")
GATES = ("none", "agreement")
DOSES = ("dose_target", "dose_complement", "dose_ordinary")
SWEEP = {
    "fit": {"saliency": ["mean_abs", "separation"]},
    "interventions": {
        "ranges": list(KINDS),
        "tau": [1.0, 2.0],
        "threshold": [1.0, 3.0],
        "top": [0.2, 0.5],
        "tuned": {"ranges": list(KINDS), "gate": list(GATES), "top": [0.3], "saliency": ["d_prime", "random"]},
    },
}


def of_values(values, concept, *, split=None, predicted=None):
    """Activations [D, N] of rows of some concepts; all of them fit rows that are predicted right unless told otherwise."""
    count = len(concept)
    said = list(concept) if predicted is None else predicted
    return Activations(
        {SITE: np.asarray(values, dtype=np.float32)},
        row=np.arange(count),
        concept=list(concept),
        split=["fit"] * count if split is None else split,
        position=np.zeros(count, dtype=np.int64),
        tokens=np.ones(count, dtype=np.int64),
        predicted=said,
        correct=np.array([one == own for one, own in zip(said, concept, strict=True)]),
        confidence=np.ones(count, dtype=np.float32),
    )


def activations(seed=0, neurons=12, per=25, constant=(4,)):
    """Three concepts with means of their own; a share of rows is predicted wrong, some are test rows."""
    generator = np.random.default_rng(seed)
    concept = [name for name in CONCEPTS for _ in range(per)]
    centre = generator.normal(size=(neurons, 3))[:, np.repeat(range(3), per)]
    values = centre + generator.normal(size=centre.shape) * generator.uniform(0.1, 2, size=(neurons, 1))
    values[list(constant)] = 0.1
    return of_values(
        values,
        concept,
        split=["test" if i % 5 == 0 else "fit" for i in range(len(concept))],
        predicted=[name if generator.random() < 0.8 else "a" for name in concept],
    )


def tokens(neurons=12, count=90, seed=1):
    """Ordinary tokens: a third of documents, the others of the rows of each concept."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(neurons, count)).astype(np.float32)
    return Ordinary(values, (["", "", *CONCEPTS, ""] * count)[:count])


def statistics(seed=0, neurons=12, per=25, *, rows="correct", with_tokens=True, draws=0, **how):
    """Of `activations`, and of `tokens` where there are any."""
    ordinary = tokens(neurons) if with_tokens else None
    return fit_statistics(activations(seed, neurons, per, **how), SITE, rows=rows, ordinary=ordinary, seed=draws)


def members(found, concept, rows="correct"):
    """Fit rows of a concept, picked one at a time."""
    picked = [
        i
        for i in range(len(found))
        if found.split[i] == "fit" and found.concept[i] == concept and (rows == "all" or found.correct[i])
    ]
    return found.values[SITE][:, picked]


def others(found, concept, rows="correct"):
    """Fit rows of all other concepts."""
    return np.concatenate([members(found, name, rows) for name in CONCEPTS if name != concept], axis=1)


def inside(values, lower, upper):
    """[K, n] whether each of some values [K, n] lies in one of its neuron's intervals, one after the other."""
    return np.array(
        [
            [any(low <= value <= high for low, high in zip(lows, highs, strict=True)) for value in row]
            for row, lows, highs in zip(values, lower, upper, strict=True)
        ],
        dtype=bool,
    ).reshape(values.shape)


def parts_of(ours, concept):
    """The three groups of tokens that doses are shares of."""
    return ours.values[ours.index(concept)], ours.complement(concept), ours.ordinary.without(concept)


def discriminative_bounds(concept, complement, ordinary, threshold):
    """Of rows in any order."""
    return Densities.of(Ordered.of(concept, complement, ordinary)).bounds(threshold)


def separation_scores(*parts):
    """[D] of a concept's rows, its complement and ordinary tokens, in any order."""
    return Densities.of(Ordered.of(*parts)).separation()


def recount(ours, concept, found):
    """[K] doses on target, complement and ordinary tokens, one value at a time."""
    shares = []
    for part in parts_of(ours, concept):
        within = inside(part[found.neurons], found.lower, found.upper)
        if found.agreement is not None:
            within &= found.agreement.passes(within)
        shares.append(within.mean(axis=1))
    return shares


def total(ours, found):
    """[K] share of all fit rows that a set of ranges edits, from its doses."""
    own, rest = (part.shape[1] for part in parts_of(ours, found.concept)[:2])
    return (found.dose_target * own + found.dose_complement * rest) / (own + rest)


def same(one, two):
    """Two values of a dataclass, field by field; NaN equals NaN."""
    if dataclasses.is_dataclass(one):
        return type(one) is type(two) and all(
            same(getattr(one, field.name), getattr(two, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return one == two


def quantile_share(tau):
    """Share of a normal distribution within tau standard deviations."""
    return math.erf(tau / math.sqrt(2))
