"""Run the models and splits in processes, print what was found, and write it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import benchmarks.selectivity
from benchmarks.selectivity.combined import combine
from benchmarks.selectivity.measured import Findings, run
from benchmarks.selectivity.methods import ALTERNATIVES, BEST
from benchmarks.selectivity.splits import ROWS, SKETCH, draw_rows
from benchmarks.selectivity.tables import markdown, readings, write_results
from neuronlens.artifact import library_versions, read_json
from neuronlens.example import Example, make_example

RESULTS = Path(__file__).parent.with_suffix(".json")
MODELS = ("classifier", "language_model")
SEEDS = (0, 1, 2)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.selectivity", description=(benchmarks.selectivity.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a sketch: one split, few rows, few resamples")
    parser.add_argument("--example", type=Path, default=Path("data/example"), help="made there if it is missing")
    parser.add_argument("--example-seed", type=int, default=0, help="of the texts and the models in that folder")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the table lies beside it")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    asked = parser.parse_args()
    seeds, rows = (SEEDS[:1], SKETCH) if asked.quick else (SEEDS, ROWS)
    changes = {"evaluate__bootstrap": 200, "evaluate__auxiliary_rows": 20} if asked.quick else {}
    example = make_example(asked.example, seed=asked.example_seed, progress=print)
    drawn = draw_rows(asked.example_seed, len(seeds), rows)
    tasks = [
        (model, seed, example.folder, table, changes)
        for (seed, table), model in product(zip(seeds, drawn, strict=True), reversed(MODELS))
    ]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        runs = dict(pool.map(run, tasks))
    report(runs, example, rows, asked.out)


def report(runs: Mapping[tuple[str, int], Findings], example: Example, rows: Mapping[str, int], out: Path) -> None:
    """Print what was found, and write it.

    Args:
        runs: (model, seed) -> findings.
        rows: of each concept, by split.
        out: the JSON file; the table is written beside it.
    """
    seeds = sorted({seed for _, seed in runs})
    found = combine(dict(sorted(runs.items())))
    table = markdown(found, len(seeds), BEST)
    print(table)
    facts = {
        "reading": readings(found["matched"], found["frontier"]),
        "seeds": seeds,
        "rows_per_concept": dict(rows),
        "alternatives": {name: one.model_dump() for name, one in ALTERNATIVES.items()},
        "example": read_json(example.record),
        "versions": library_versions(),
    }
    write_results(out, found, facts)
    out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(f"written to {out} and {out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
