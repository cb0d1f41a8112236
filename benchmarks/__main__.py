"""`python -m benchmarks`: print every ratio and write benchmarks/results.json."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch

from benchmarks import engine, fit, storage
from neuronlens.artifact import library_versions, write_json

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Run and report."""
    torch.set_num_threads(1)  # ratios of one core are steadier than of a shared machine's several
    results = {}
    for title, ratios in chain(fit.run(), storage.run(), engine.run()):
        print(title)
        for ratio in ratios:
            seconds = "" if ratio.seconds is None else f"{ratio.seconds:.4f} s"
            print(f"  {ratio.name:40s} {ratio.median:7.4f}  [{ratio.low:.4f}, {ratio.high:.4f}]  {seconds}")
        results[title] = [
            {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(r).items()}
            for r in ratios
        ]
    write_json(RESULTS, {"results": results, "versions": library_versions()})
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
