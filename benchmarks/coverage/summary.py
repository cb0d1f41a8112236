"""Coverage over the settings of a quantity and size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.coverage.settings import Setting


@dataclass(frozen=True)
class Coverage:
    """Coverage over the settings of a quantity and size.

    Attributes:
        settings: how many.
        mean, lowest, highest: share of covered truths.
        lowest_at, highest_at: the details of those settings.
        within: share of the settings between 93 and 97 %.
    """

    quantity: str
    size: str
    corner: bool
    settings: int
    mean: float
    lowest: float
    lowest_at: str
    highest: float
    highest_at: str
    within: float


def measure(chosen: Iterable[Setting], repetitions: int) -> list[tuple[Setting, float]]:
    """Settings with their coverage; each has draws of its own, whatever else is measured."""
    measured = []
    for setting in chosen:
        name = f"{setting.quantity}, {setting.size}, {setting.detail}"
        generator = np.random.default_rng(list(name.encode()))
        measured.append((setting, setting.measure(generator, max(1, round(setting.effort * repetitions)))))
    return measured


def summarise(measured: Iterable[tuple[Setting, float]]) -> list[Coverage]:
    """Figures per quantity and size, ordinary settings and corners apart."""
    groups: dict[tuple[str, str, bool], list[tuple[float, str]]] = {}
    for setting, covered in measured:
        key = (setting.quantity, setting.size, setting.corner)
        groups.setdefault(key, []).append((covered, setting.detail))
    found = []
    for key, members in groups.items():
        shares = [covered for covered, _ in members]
        within = float(np.mean([0.93 <= covered <= 0.97 for covered in shares]))
        found.append(Coverage(*key, len(members), float(np.mean(shares)), *min(members), *max(members), within))
    return found
