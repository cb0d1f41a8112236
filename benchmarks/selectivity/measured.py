"""One model on one split: everything is fitted, chosen on validation rows, and measured on test rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.selectivity.methods import COMPARED, methods_of, settings
from benchmarks.selectivity.tables import Row
from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, open_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import Dataset, read_dataset
from neuronlens.evaluation.choice import choose
from neuronlens.evaluation.contrasts import contrasts_table
from neuronlens.evaluation.frontier import frontier_tables, walked
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.methods import Method, by_place, distinct
from neuronlens.evaluation.scoring import RowScores, score_rows
from neuronlens.evaluation.text import document_losses
from neuronlens.example import Example
from neuronlens.ranges.selection import Ranges
from neuronlens.stages import run_stage
from neuronlens.text_files import read_documents

MEASURED = (
    *("target_accuracy_drop", "complement_accuracy_drop", "selectivity", "confidence_selectivity"),
    "log_perplexity_ratio",
)


@dataclass(frozen=True)
class Findings:
    """Rows of one model and split; each also names its `site`.

    Attributes:
        matched: `method` minus `against` at a target drop: selectivity and log perplexity with limits, mean over concepts.
        frontier: drop of the complement per family and concept at a target drop.
        best: what the validation rows chose per family and concept, measured on the test rows.
        contrasts: those choices against each other, with limits.
    """

    matched: list[Row]
    frontier: list[Row]
    best: list[Row]
    contrasts: list[Row]


def compare(config: Config, audit: Path) -> Findings:
    """Run the stages up to extraction into the folder `audit`, then every method on validation and on test rows."""
    for stage in ("prepare", "extract"):
        run_stage(stage, config, audit)
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(audit / "prepare")
    candidates, controls = methods_of(config, audit)
    tried, tried_at = _scores(checkpoint, dataset, candidates, config, "validation")
    chosen = _chosen(candidates, tried, tried_at)
    tuned = [candidates[i] for (_, _, family), i in chosen.items() if family == "tuned"]
    controls = [method for method in controls if any(method.mirrors(other) for other in tuned)]
    # test rows see only what the validation rows have put on a path or chosen
    paths = walked(candidates, tried, tried_at, COMPARED)
    needed = sorted({*chosen.values(), *(i for path in paths.values() for i in path)})
    methods = [candidates[i] for i in needed] + controls
    judged, places = _scores(checkpoint, dataset, methods, config, "test")
    losses = _losses(checkpoint, methods, config)

    tables = [
        frontier_tables(
            methods[: len(needed)],
            (tried, [tried_at[i] for i in needed]),
            (judged, places[: len(needed)]),
            losses,
            resamples=config.evaluate.bootstrap,
            seed=config.seed,
            families={name: COMPARED[name] for name in (family, *against)},
            family=family,
            against=against,
        )
        for family, against in (("tuned", [name for name in COMPARED if name != "tuned"]), ("paper", ["whole"]))
    ]
    matched = [
        {"method": family} | row
        for family, (_, table) in zip(("tuned", "paper"), tables, strict=True)
        for row in table.to_pylist()
    ]

    selected = {key: places[needed.index(i)] for key, i in chosen.items()}
    for i, control in enumerate(controls, start=len(needed)):
        assert isinstance(control.ranges, Ranges)
        selected[str(control.ranges.site), control.ranges.concept, f"tuned/{control.ranges.kind}"] = places[i]
    edits: dict[tuple[str, str], dict[str, int]] = {}
    for (site, concept, family), place in selected.items():
        edits.setdefault((site, family), {})[concept] = place
    names = {key: candidates[i].name for key, i in chosen.items()}  # a control's setting is that of what it mirrors
    best = [
        {"site": site, "concept": concept, "family": family, "setting": names.get((site, concept, family), family)}
        | _measured(judged, losses, concept, place)
        for (site, concept, family), place in selected.items()
    ]
    return Findings(matched, tables[0][0].to_pylist(), best, contrasts_table(judged, edits).to_pylist())


def _scores(
    checkpoint: Checkpoint, dataset: Dataset, methods: Sequence[Method], config: Config, split: str
) -> tuple[RowScores, list[int]]:
    """Scores of the edits that differ, and the place of each method in them, from 1."""
    different, index = distinct(methods)
    edits = [method.edit(config.extract.pooling) for method in different]
    batch = config.extract.batch_tokens
    scores = score_rows(checkpoint, dataset, edits, split=split, batch_tokens=batch, text=config.dataset)
    return scores, [i + 1 for i in index]


def _losses(checkpoint: Checkpoint, methods: Sequence[Method], config: Config) -> Losses | None:
    if config.evaluate.auxiliary is None or checkpoint.kind != "language_model":
        return None
    documents = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
    edits = [method.edit(config.extract.pooling) for method in distinct(methods)[0]]
    return Losses(*document_losses(checkpoint, documents, edits, max_tokens=config.dataset.max_tokens))


def _chosen(candidates: Sequence[Method], tried: RowScores, places: Sequence[int]) -> dict[tuple[str, str, str], int]:
    """(site, concept, family) -> place of the candidate that the validation rows choose."""
    found = {}
    for (site, concept), own in by_place(candidates).items():
        rows = dict(zip(own, measure(tried, concept, [places[i] for i in own]), strict=True))
        for family, belongs in COMPARED.items():
            members = [i for i in own if belongs(candidates[i])]
            columns = (
                np.array([rows[i][name] for i in members], dtype=np.float64)
                for name in ("selectivity", "confidence_selectivity")
            )
            found[site, concept, family] = members[choose([candidates[i] for i in members], *columns)]
    return found


def _measured(scores: RowScores, losses: Losses | None, concept: str, place: int) -> Row:
    (row,) = measure(scores, concept, [place])
    found = {name: row[name] for name in MEASURED[:-1]}
    change = None if losses is None else float((losses.losses[place] - losses.losses[0]).sum() / losses.predicted.sum())
    return found | {"log_perplexity_ratio": change}


def run(task: tuple[str, int, Path, pa.Table, dict[str, Any]]) -> tuple[tuple[str, int], Findings]:
    """One model and split, in a process of its own."""
    model, seed, folder, rows, changes = task
    torch.set_num_threads(1)  # the processes share the cores
    example = Example(folder)
    checkpoint, auxiliary = {
        "classifier": (example.classifiers[-1], None),
        "language_model": (example.language_models[-1], example.auxiliary),
    }[model]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.parquet"
        write_table(file, rows)
        found = compare(settings(checkpoint, file, auxiliary, seed, **changes), Path(scratch) / "audit")
    print(f"{model}, split {seed}: done", flush=True)
    return (model, seed), found
