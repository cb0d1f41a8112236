"""How often the interval of each quantity covers a truth that is known, and how rarely a planted null is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.special import expit, gammaln, logit, xlogy
from scipy.stats import binom, false_discovery_control, norm

from neuronlens.evaluation import uncertainty as unc
from neuronlens.evaluation.matched import LEVELS, read_path, spread
from neuronlens.evaluation.scoring import RowScores

Array = npt.NDArray[np.float64]
Random = np.random.Generator

_TRUTH = 400_000  # rows behind a true mean that has no formula


def false_discoveries(generator: Random, repetitions: int, comparisons: int = 200, n: int = 100) -> tuple[float, float]:
    """Planted nulls: in four of five comparisons rows are lost as easily as gained, in the others more easily.

    Returns:
        Mean share of false ones among what Benjamini-Hochberg calls at 5 % from exact McNemar p values, and mean share of true effects
        called.
    """
    null = np.arange(comparisons) < 0.8 * comparisons
    lost = np.where(null, 0.1, np.linspace(0.2, 0.5, comparisons))
    chances = np.stack([lost, np.full(comparisons, 0.1), 0.9 - lost], axis=1)
    counts = generator.multinomial(n, chances, size=(repetitions, comparisons))
    called = false_discovery_control(unc.mcnemar_p(counts[..., 0], counts[..., 1]), axis=1) <= 0.05
    false = (called & null).sum(axis=1) / np.maximum(called.sum(axis=1), 1)
    return float(false.mean()), float(called[:, ~null].mean())


def _covered(estimate: unc.Estimate, truth: float | Array) -> float:
    tolerance = 1e-12
    return float(np.mean((estimate.low - tolerance <= truth) & (truth <= estimate.high + tolerance)))


def rate(n: int, over: Callable[[Array], float], _: Random, __: int) -> float:
    limits = np.array([unc.wilson(hits, n) for hits in range(n + 1)])
    rates = np.linspace(0.6, 1, 401)[:-1, None]
    inside = (limits[:, 0] <= rates) & (rates <= limits[:, 1])
    return float(over((binom.pmf(np.arange(n + 1), n, rates) * inside).sum(axis=1)))


def change(n: int, lost: float, gained: float, _: Random, __: int) -> float:
    b, c = (part[np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n] for part in np.indices((n + 1, n + 1)))
    logs = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
    chances = np.exp(logs + xlogy(b, lost) + xlogy(c, gained) + xlogy(n - b - c, 1 - lost - gained))
    found, truth = unc.change_of_rate(b, c, n), lost - gained
    return float(chances[(found.low - 1e-12 <= truth) & (truth <= found.high + 1e-12)].sum())


def selectivity(n: int, others: int, lost: float, spill: float, generator: Random, repetitions: int) -> float:
    own = generator.multinomial(n, (lost, 0.005, 0.995 - lost), size=repetitions)
    rest = generator.multinomial(others, (spill, 0.005, 0.995 - spill), size=repetitions)
    first = unc.change_of_rate(own[:, 0], own[:, 1], n)
    second = unc.change_of_rate(rest[:, 0], rest[:, 1], others)
    return _covered(unc.difference(first, second), lost - spill)


# logits of confidence: (mean, standard deviation)
SHARP = (9.0, 1.0)  # next to 1, so that rows are all but right or wrong
SHAPES = {"narrow": (4.0, 1.0), "wide": (3.0, 2.0)}
# what an edit takes from the logits: (mean, standard deviation)
DAMAGE = {"slight": (0.0, 0.2), "some": (0.5, 0.5), "much": (2.0, 1.0), "all but complete": (5.0, 2.0)}


def _draw_confidence(shape: str, low: float, size: tuple[int, ...], generator: Random) -> Array:
    confident = expit(generator.normal(*SHAPES.get(shape, SHARP), size))
    return np.asarray(np.where(generator.random(size) < low, generator.beta(1, 3, size), confident))


def _draw_drops(
    shape: str, damage: tuple[float, float], broken: float, size: tuple[int, ...], generator: Random
) -> Array:
    base = _draw_confidence(shape, 0.0, size, generator)
    edited = expit(logit(base) - generator.normal(*damage, size))
    return np.asarray(base - np.where(generator.random(size) < broken, generator.beta(1.5, 4, size), edited))


def confidence(n: int, shape: str, low: float, generator: Random, repetitions: int) -> float:
    truth = _draw_confidence(shape, low, (_TRUTH,), generator).mean()
    return _covered(unc.mean_of_shares(_draw_confidence(shape, low, (repetitions, n), generator)), truth)


def confidence_drop(
    n: int, shape: str, damage: tuple[float, float], broken: float, generator: Random, repetitions: int
) -> float:
    truth = _draw_drops(shape, damage, broken, (_TRUTH,), generator).mean()
    return _covered(unc.mean(_draw_drops(shape, damage, broken, (repetitions, n), generator)), truth)


def confidence_selectivity(
    n: int, others: int, shape: str, damage: tuple[float, float], generator: Random, repetitions: int
) -> float:
    spilled = (damage[0] / 5, damage[1] / 2)
    draws = partial(_draw_drops, shape, broken=0.0, generator=generator)
    truth = draws(damage=damage, size=(_TRUTH,)).mean() - draws(damage=spilled, size=(_TRUTH,)).mean()
    first = unc.mean(draws(damage=damage, size=(repetitions, n)))
    second = unc.mean(draws(damage=spilled, size=(repetitions, others)))
    return _covered(unc.difference(first, second), truth)


# effects of concepts: (how to draw them, their mean, is the shape extreme?)
EFFECTS: dict[str, tuple[Callable[[Random, tuple[int, int]], Array], float, bool]] = {
    "normal": (lambda generator, size: generator.normal(1, 1, size), 1.0, False),
    "uniform": (lambda generator, size: generator.random(size), 0.5, False),
    "Student 5 df": (lambda generator, size: generator.standard_t(5, size), 0.0, False),
    "gamma 4 (skewness 1)": (lambda generator, size: generator.gamma(4, 1, size), 4.0, False),
    "beta 2, 5 (skewness 0.6)": (lambda generator, size: generator.beta(2, 5, size), 2 / 7, False),
    "lognormal 0.5 (skewness 1.75)": (
        lambda generator, size: generator.lognormal(0, 0.5, size),
        float(np.exp(0.125)),
        False,
    ),
    "exponential (skewness 2)": (lambda generator, size: generator.exponential(1, size), 1.0, True),
    "three concepts in ten hit": (
        lambda generator, size: generator.normal(np.where(generator.random(size) < 0.3, 0.7, 0.1), 0.1),
        0.28,
        True,
    ),
}


def concepts(
    concepts: int,
    draw: Callable[[Random, tuple[int, int]], Array],
    truth: float,
    generator: Random,
    repetitions: int,
) -> float:
    return _covered(unc.mean(draw(generator, (repetitions, concepts))), truth)


# change of a token's loss in a document, around its mean
TAILS: dict[str, Callable[[Random, tuple[int, ...]], Array]] = {
    "normal": lambda generator, size: generator.normal(0, 1, size),
    "heavy tails": lambda generator, size: generator.standard_t(4, size),
    "skewed": lambda generator, size: generator.exponential(1, size) - 1,
}


def perplexity(n: int, tail: str, shift: float, generator: Random, repetitions: int) -> float:
    size = (repetitions, n)
    tokens = np.clip(generator.lognormal(3.5, 0.7, size).round(), 2, 128)
    change = shift + (0.05 + 0.5 * shift) * TAILS[tail](generator, size)
    # sums of losses differ by more in long documents; every repetition has documents of its own, and thus denominators
    estimates = [unc.ratio((row * long)[None], long) for row, long in zip(change, tokens, strict=True)]
    return _covered(unc.Estimate(*(np.concatenate(parts) for parts in zip(*estimates, strict=True))), shift)


PARTS = (("selectivity", 1.0, -1.0), ("target drop", 1.0, 0.0), ("complement drop", 0.0, 1.0))


def these_concepts(
    concepts: int,
    n: int,
    lost: float,
    target: float,
    complement: float,
    confidence: bool,
    generator: Random,
    repetitions: int,
) -> float:
    """Concepts that are hit to different degrees, one in two with twice the rows; one row in ten is lost easily by every edit."""
    of_row = np.repeat(np.arange(concepts), np.where(np.arange(concepts) % 2, 2 * n, n))
    own = of_row == np.arange(concepts)[:, None]
    hit = np.linspace(0.3, 1.7, concepts) * lost
    size = (repetitions, concepts, len(of_row))
    fragile = np.where(generator.random((repetitions, 1, len(of_row))) < 0.1, 0.1, 0.01)
    drops = (generator.random(size) < np.where(own, hit[:, None], fragile)).astype(np.float64)
    truth = target * lost + complement * 0.019
    if confidence:
        drops = drops * generator.beta(2, 2, size) + generator.normal(0, 0.02, size)
        truth /= 2
    parts, largest = unc.contributions(drops, np.arange(concepts), of_row, target, complement)
    return _covered(unc.total(parts, of_row, unseen=0.0 if confidence else largest), truth)


# drops of target and complement along the paths of two methods
Curves = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
CURVES: Mapping[str, Curves] = {
    "costly": {
        "tuned": ((0, 0.35, 0.75, 0.97), (0, 0.02, 0.08, 0.2)),
        "paper": ((0, 0.35, 0.75, 0.97), (0, 0.05, 0.2, 0.5)),
    },
    "all but harmless": {
        "tuned": ((0, 0.3, 0.6, 0.97), (0, 0.01, 0.015, 0.02)),
        "paper": ((0, 0.3, 0.6, 0.97), (0, 0.01, 0.02, 0.03)),
    },
}


def matched(
    concepts: int, n: int, curves: Curves, level: float, measure: str, generator: Random, repetitions: int
) -> float:
    """What one method spares the others against another at the same drop of the target; the same rows are easily lost under all edits."""
    names, of_row = tuple(map(str, range(concepts))), np.repeat(np.arange(concepts), n)
    truth = float(np.diff([np.interp(level, *curves[name]) for name in ("tuned", "paper")])[0])
    chances = np.array(
        [
            np.where(of_row == concept, target, other)
            for drops in curves.values()
            for concept in range(concepts)
            for target, other in zip(*(part[1:] for part in drops), strict=True)
        ]
    )
    steps = len(chances) // (2 * concepts)
    places = np.arange(1, len(chances) + 1).reshape(2, concepts, steps)
    covered = 0
    for _ in range(repetitions):
        lots = norm.cdf(0.8 * generator.standard_normal(len(of_row)) + 0.6 * generator.standard_normal(chances.shape))
        scores = _scores(names, of_row, lots, chances)
        weights = np.ones((1, len(of_row)))
        readings = [
            [
                read_path(scores, name, measure, own.tolist(), None, weights, [""] * steps).points[LEVELS.index(level)]
                for name, own in zip(names, family, strict=True)
            ]
            for family in places
        ]
        pairs = [(one, two) for one, two in zip(*readings, strict=True) if one is not None and two is not None]
        own, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        row = spread("selectivity", measure, own, theirs, of_row)
        low, high = row["selectivity_low"], row["selectivity_high"]
        covered += low is not None and high is not None and low <= truth <= high
    return covered / repetitions


def _scores(names: tuple[str, ...], of_row: npt.NDArray[np.int64], lots: Array, chances: Array) -> RowScores:
    """Rows all answered right; an edit loses a row whose lot is below its chance, and takes that much confidence on average."""
    nothing = np.zeros((len(lots) + 1, len(of_row)), dtype=np.int32)
    predicted = np.where(lots < chances, -1, of_row)
    # a power of a uniform lot has the mean 1 / (1 + power)
    sure = 1 - lots ** (1 / chances - 1)
    return RowScores(
        names,
        np.arange(len(of_row)),
        of_row,
        np.concatenate([of_row[None], predicted]).astype(np.int32),
        np.concatenate([np.ones((1, len(of_row))), sure]).astype(np.float32),
        nothing,
        nothing,
        no_op_difference=0.0,
        suffix_difference=0.0,
    )
