"""Measure, print, and write."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.calibration.draws import Draw, draw
from benchmarks.calibration.planted import DROP, plant
from benchmarks.calibration.rates import Rate, any_failed, rates
from benchmarks.tables import filled_with
from neuronlens.artifact import library_versions, write_json
from neuronlens.example import make_example
from neuronlens.example.corpus import generate
from neuronlens.params import load_config

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).parent.with_suffix(".json")
DOCUMENT = ROOT / "docs" / "reliability.md"
DRAWS = 100
_SEED = 10_000  # of rows that no audit sees


def main(count: int, example: Path) -> None:
    """Run and report.

    Args:
        count: draws of rows.
        example: folder of the example, made where it is not there.
    """
    classifier = make_example(example).classifiers[-1]
    with tempfile.TemporaryDirectory() as folder:
        unseen = [row for row in generate(_SEED).audited if row.split == "fit"]
        checkpoints = plant(classifier, Path(folder), unseen)
        draws = _drawn(range(1, count + 1), checkpoints)
    config = load_config(ROOT / "params.yaml")
    found, failed = rates(draws, config), any_failed(draws, config)
    text = table(found, failed, count)
    print(text)
    write_json(
        RESULTS,
        {
            "draws": count,
            "planted": DROP,
            "any_failed": failed,
            "rates": [asdict(rate) for rate in found],
            "versions": library_versions(),
        },
    )
    DOCUMENT.write_text(filled_with(DOCUMENT.read_text(encoding="utf-8"), {"calibration": text}), encoding="utf-8")


def _drawn(seeds: Sequence[int], checkpoints: Mapping[str, Path]) -> list[Draw]:
    """A draw a process, so that none sees what another has left."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=8) as pool:
        found = []
        for one in pool.imap_unordered(partial(draw, checkpoints=checkpoints), seeds):
            found.append(one)
            print(f"{len(found)} of {len(seeds)}", file=sys.stderr, flush=True)
    return sorted(found, key=lambda one: one.seed)


def table(found: Sequence[Rate], failed: float, count: int) -> str:
    """As Markdown."""
    names = {"plain": "as it is", "again": "saved again", "worse": "worse"}
    lines = ["| checkpoint | gate | truth | FAIL | not decided |", "| --- | --- | ---: | ---: | ---: |"]
    for rate in found:
        numbers = f"{rate.truth:.3f} | {rate.failed:.0%} | {rate.undecided:.0%}"
        lines.append(f"| {names[rate.checkpoint]} | `{rate.rule}` | {numbers} |")
    lines += ["", f"Of {count} audits of the checkpoint as it is, and saved again, {failed:.0%} fail any gate."]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--example", type=Path, default=Path("data/example"))
    given = parser.parse_args()
    main(given.draws, given.example)
