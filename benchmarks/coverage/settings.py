"""The kinds of data on which coverage is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from benchmarks.coverage import quantities
from benchmarks.coverage.quantities import Random


@dataclass(frozen=True)
class Setting:
    """One kind of data, and how often the interval of a quantity covers the truth there.

    Attributes:
        quantity, size: what the figures are summarised by.
        detail: the rest.
        corner: is it one where 93 to 97 % is not promised?
        measure: (generator, repetitions) -> share of covered truths; those that enumerate all outcomes need neither.
        effort: repetitions, in multiples of what is asked for: fewer where they are dear, more where they are cheap.
    """

    quantity: str
    size: str
    detail: str
    corner: bool
    measure: Callable[[Random, int], float]
    effort: float = 1.0


def settings() -> Iterator[Setting]:
    """All of them."""
    for n in (20, 50, 100, 200):
        yield Setting("rate", f"n {n}", "mean of the rates from 0.6 to 1", False, partial(quantities.rate, n, np.mean))
        yield Setting("rate", f"n {n}", "worst of the rates from 0.6 to 1", True, partial(quantities.rate, n, np.min))
        for lost, gained in product((0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 0.98), (0.001, 0.02)):
            corner = min(lost, 1 - lost) * n < 5
            detail = f"lost {lost:g}, gained {gained:g}"
            yield Setting("change of a rate", f"n {n}", detail, corner, partial(quantities.change, n, lost, gained))
    for (n, others), lost, spill in product(
        ((20, 100), (20, 2000), (50, 250), (100, 500), (200, 2000)), (0.01, 0.1, 0.5, 0.9, 0.98), (0.003, 0.03, 0.2)
    ):
        corner = min(lost, 1 - lost) * n < 5
        detail = f"lost {lost:g}, spill {spill:g}"
        yield Setting(
            "selectivity", f"n {n} + {others}", detail, corner, partial(quantities.selectivity, n, others, lost, spill)
        )
    for n, shape, low in product((20, 50, 100, 200), (*quantities.SHAPES, "sharp"), (0.0, 0.05, 0.2)):
        corner = shape != "wide" and low * n < 2  # next to no low row expected
        detail = f"{shape}, {low:g} of the rows low"
        yield Setting("mean confidence", f"n {n}", detail, corner, partial(quantities.confidence, n, shape, low))
    for n, shape, (name, damage) in product((20, 50, 100, 200, 500), quantities.SHAPES, quantities.DAMAGE.items()):
        run = partial(quantities.confidence_drop, n, shape, damage, 0.0)
        yield Setting("change of confidence", f"n {n}", f"{shape}, {name} damage", n < 50, run)
    for n, broken in product((20, 50, 100, 200, 500), (0.01, 0.03, 0.1, 0.3)):
        detail = f"{broken:g} of the rows broken, others hardly touched"
        run = partial(quantities.confidence_drop, n, "narrow", quantities.DAMAGE["slight"], broken)
        yield Setting("change of confidence, rows broken", f"n {n}", detail, broken * n < 5, run)
    for (n, others), shape, (name, damage) in product(
        ((20, 100), (50, 250), (100, 500), (200, 1000)), quantities.SHAPES, quantities.DAMAGE.items()
    ):
        detail, run = f"{shape}, {name} damage", partial(quantities.confidence_selectivity, n, others, shape, damage)
        yield Setting("confidence selectivity", f"n {n} + {others}", detail, n < 50, run, 0.5)
    for concepts, (name, (draw, truth, corner)) in product((2, 3, 4, 6, 8, 14), quantities.EFFECTS.items()):
        run = partial(quantities.concepts, concepts, draw, truth)
        yield Setting("mean over concepts", f"C {concepts}", name, corner or concepts < 3, run, 8.0)
    for n, tail, shift in product((20, 50, 200), quantities.TAILS, (0.0, 0.05, 0.5)):
        detail, run = f"{tail}, ratio {np.exp(shift):.2f}", partial(quantities.perplexity, n, tail, shift)
        yield Setting("log perplexity ratio", f"n {n}", detail, n < 50, run)
    for (concepts, n), lost, (name, target, complement), confidence in product(
        ((4, 20), (6, 20), (6, 100), (14, 30)), (0.01, 0.1, 0.5), quantities.PARTS, (False, True)
    ):
        corner = lost * concepts * n < 5
        quantity = f"these concepts, {'confidence' if confidence else 'accuracy'}"
        run = partial(quantities.these_concepts, concepts, n, lost, target, complement, confidence)
        yield Setting(quantity, f"C {concepts}, n {n}", f"{name}, lost {lost:g}", corner, run, 0.25)
    for (concepts, n), (name, curves), level, confidence in product(
        ((2, 80), (4, 20), (6, 20), (6, 100)), quantities.CURVES.items(), (0.25, 0.5, 0.9), (False, True)
    ):
        quantity = f"matched target drop, {'confidence' if confidence else 'accuracy'}"
        # few of the concept's rows are answered right or wrong there, or few of the others' change under the better of the two
        changed = n * concepts * (concepts - 1) * float(np.interp(level, *curves["tuned"]))
        corner = min(level, 1 - level) * n < 5 or changed < 10
        run = partial(quantities.matched, concepts, n, curves, level, "confidence" if confidence else "accuracy")
        yield Setting(quantity, f"C {concepts}, n {n}", f"{name}, drop {level:g}", corner, run, 0.1)
