"""Timing on a noisy machine: variants take turns, and what is reported is a ratio of medians with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
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


def interleave(
    baseline: Callable[[], object], variants: Mapping[str, Callable[[], object]], rounds: int = 5, *, share: float = 1.0
) -> list[Ratio]:
    """Run the baseline and every variant once a round, after a round that does not count; the order rotates.

    Args:
        share: of the variants' work that the baseline does. Where that is a sample, its times are scaled up.
    """
    runs = {"baseline": baseline, **variants}
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            runs[name]()
            if turn:
                times[name].append(time.process_time() - start)
    found = []
    for name in variants:
        ratios = [own * share / base for own, base in zip(times[name], times["baseline"], strict=True)]
        found.append(Ratio(name, statistics.median(ratios), min(ratios), max(ratios), statistics.median(times[name])))
    return found
