"""One draw of rows, audited under every checkpoint and compared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from neuronlens.artifact import read_json, write_table
from neuronlens.comparison.document import compare
from neuronlens.comparison.gates import Number, audit_numbers, comparison_numbers
from neuronlens.comparison.stored import NEEDED
from neuronlens.config import Config
from neuronlens.example.corpus import Row, generate
from neuronlens.params import load_config
from neuronlens.stages import STAGES, run_stage

Numbers = Mapping[str, Number]


@dataclass(frozen=True)
class Draw:
    """What audits of one draw have measured.

    Attributes:
        seed: of the rows.
        audit: number of the audit of the plain checkpoint.
        again, worse: what became of each number from the plain checkpoint to the other, by the words of a gate: `selectivity drop`.
    """

    seed: int
    audit: Numbers
    again: Numbers
    worse: Numbers


def draw(seed: int, checkpoints: Mapping[str, Path], rows: Mapping[str, int] | None = None) -> Draw:
    """Audit and compare.

    Args:
        checkpoints: `plain`, `again`, `worse`.
        rows: of each topic by split; as many as the example has unless told otherwise.
    """
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    try:
        write_rows(root / "rows.parquet", generate(seed).audited, rows)
        for name, checkpoint in checkpoints.items():
            config = configured(checkpoint, root / "rows.parquet")
            for stage in STAGES if name == "plain" else NEEDED:
                run_stage(stage, config, root / name)
        found = {
            name: changes(compare(root / "plain", root / name, root / f"plain--{name}"))
            for name in checkpoints
            if name != "plain"
        }
        audit = audit_numbers(read_json(root / "plain" / "report" / "audit.json"))
        return Draw(seed, {key: number for key, number in audit.items() if number is not None}, **found)
    finally:
        shutil.rmtree(root)


def configured(checkpoint: Path, dataset: Path) -> Config:
    """An audit as anybody runs it, but for what no gate looks at: one setting of the published method, no controls."""
    return load_config(
        overrides=[
            f"checkpoint.path={checkpoint}",
            f"dataset.path={dataset}",
            "interventions.ranges=gaussian",
            "interventions.tau=2.0",
            "interventions.top=0.3",
            "interventions.controls=[]",
            "fit.saliency=mean_abs",
        ]
    )


def write_rows(file: Path, rows: Sequence[Row], count: Mapping[str, int] | None) -> None:
    """Labelled rows as a table; of each topic and split the first so many, or all."""
    left: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        key = row.label, row.split
        left[key] = left.get(key, len(rows) if count is None else count[row.split]) - 1
        if left[key] >= 0:
            kept.append(row)
    write_table(file, pa.table({name: [getattr(row, name) for row in kept] for name in ("text", "label", "split")}))


def changes(comparison: Mapping[str, Any]) -> dict[str, Number]:
    """Name of a gate's number -> what became of it."""
    found = {
        f"{name} {of}" if of else name: number
        for of in ("drop", None)
        for name, number in comparison_numbers(comparison, of).items()
    }
    return {name: number for name, number in found.items() if number is not None}
