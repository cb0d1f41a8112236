"""`python -m benchmarks [NAME ...]`: print every ratio, or those of some benchmarks; write benchmarks/results.json and docs/performance.md.

Results of benchmarks that are not named stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import again, audit, explorer, extraction, fit, scale, storage, suffix, tables, text
from benchmarks.measure import Ratio
from neuronlens.artifact import library_versions, read_json, write_json

RESULTS = Path(__file__).with_name("results.json")
BENCHMARKS: Mapping[str, Callable[[], Iterator[tuple[str, list[Ratio]]]]] = {
    "again": again.run,
    "audit": audit.run,
    "explorer": explorer.run,
    "extraction": extraction.run,
    "fit": fit.run,
    "scale": scale.run,
    "storage": storage.run,
    "suffix": suffix.run,
    "text": text.run,
}


def main(names: list[str]) -> int:
    """Run and report."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}. There are: {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # ratios of one core are steadier than of a shared machine's several
    for name in names or BENCHMARKS:
        found = {}
        for title, ratios in BENCHMARKS[name]():
            print(title)
            for ratio in ratios:
                seconds = "" if ratio.seconds is None else f"{ratio.seconds:.4f} s"
                print(
                    f"  {ratio.name:48s} {ratio.median:8.4f}  [{ratio.low:.4f}, {ratio.high:.4f}]  {seconds}",
                    flush=True,
                )
            found[title] = [_rounded(asdict(ratio)) for ratio in ratios]
        known = read_json(RESULTS)["results"] if RESULTS.exists() else {}  # others may have been measured meanwhile
        results = {other: known[other] for other in BENCHMARKS if other in known} | {name: found}
        write_json(RESULTS, {"results": results, "versions": library_versions()})
        tables.write(results)
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")
    return 0


def _rounded(ratio: dict[str, object]) -> dict[str, object]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in ratio.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
