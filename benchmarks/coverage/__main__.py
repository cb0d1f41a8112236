"""Measure, print, and write."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.coverage.quantities import false_discoveries
from benchmarks.coverage.settings import settings
from benchmarks.coverage.summary import measure, summarise
from neuronlens.artifact import library_versions, write_json

RESULTS = Path(__file__).parent.with_suffix(".json")
REPETITIONS = 4000


def main() -> None:
    """Run and report."""
    found = summarise(measure(settings(), REPETITIONS))
    for one in found:
        name = f"{one.quantity}{' (corner)' if one.corner else ''}"
        print(f"{name:46s} {one.size:13s} {one.settings:3d}  mean {one.mean:.3f}", end="")
        print(f"  lowest {one.lowest:.3f}  highest {one.highest:.3f}  within 93 to 97 %: {one.within:.2f}")
    rate, power = false_discoveries(np.random.default_rng(0), REPETITIONS)
    print(f"false discovery rate on planted nulls {rate:.4f}, true effects found {power:.3f}")
    digits = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(one).items()}
        for one in found
    ]
    discoveries = {"false_discovery_rate": round(rate, 4), "found": round(power, 4)}
    write_json(
        RESULTS,
        {
            "coverage": digits,
            "planted_nulls": discoveries,
            "repetitions": REPETITIONS,
            "versions": library_versions(),
        },
    )
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
