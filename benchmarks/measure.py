"""Timing on a noisy machine: variants take turns, and what is reported is a ratio of medians with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Time of a variant over the time of the baseline in the same round, or a size over another.

    Attributes:
        name: of the variant.
        median: of the rounds' ratios; of sizes the ratio of the sums.
        low, high: smallest and largest of them.
        seconds: median time of the variant; None of a size.
    """

    name: str
    median: float
    low: float
    high: float
    seconds: float | None = None


Run = Callable[[], object]
APART = object()  # what a piece yields that is left out, since it is accounted for elsewhere


def interleave(baseline: Run, variants: Mapping[str, Run], rounds: int = 5, *, share: float = 1.0) -> list[Ratio]:
    """Run the baseline and every variant once a round, after a round that does not count; the order rotates.

    What returns an iterator is run piece by piece, and all that do take turns by the piece: a machine's speed drifts within seconds. A
    piece that yields `APART` does not count.

    Args:
        share: of the variants' work that the baseline does. Where that is a sample, its times are scaled up.
    """
    runs = {"baseline": baseline, **variants}
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name, spent in _seconds({name: runs[name] for name in order}).items():
            if turn:
                times[name].append(spent)
    found = []
    for name in variants:
        ratios = [own * share / base for own, base in zip(times[name], times["baseline"], strict=True)]
        found.append(Ratio(name, statistics.median(ratios), min(ratios), max(ratios), statistics.median(times[name])))
    return found


def _seconds(runs: Mapping[str, Run]) -> dict[str, float]:
    """Processor time of each run, a piece of each in turn."""
    spent = dict.fromkeys(runs, 0.0)
    waiting = {name: _pieces(run) for name, run in runs.items()}
    while waiting:
        for name, pieces in [*waiting.items()]:
            start = time.process_time()
            piece = next(pieces, pieces)
            if piece is pieces:
                del waiting[name]
            if piece is not APART:
                spent[name] += time.process_time() - start
    return spent


def _pieces(run: Run) -> Iterator[object]:
    result = run()
    if isinstance(result, Iterator):
        yield from result
