"""The sweep: every method on every concept, against the unedited model on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, default_device, open_checkpoint
from neuronlens.config import Config, Positions
from neuronlens.dataset import Dataset, read_dataset, read_documents
from neuronlens.evaluation.scoring import RowScores, document_losses, perplexity, score_rows
from neuronlens.evaluation.uncertainty import bootstrap_means, interval, wilson
from neuronlens.interventions.edit import Intervention
from neuronlens.ranges.fit import Ranges, read_ranges

Array = npt.NDArray[np.float64]

GROUPS = ("target", "complement")
MEASURES = ("accuracy", "confidence")


@dataclass(frozen=True)
class Method:
    """Ranges and what is done in them: one row of results.parquet."""

    ranges: Ranges
    operator: str = "zero"
    positions: Positions = "all"

    @property
    def name(self) -> str:
        """The method without its concept, such as `gaussian-2.5/d_prime/0.1/zero/all`."""
        width = "" if self.ranges.tau is None else f"-{self.ranges.tau:g}"
        return f"{self.ranges.kind}{width}/{self.ranges.saliency}/{self.ranges.top:g}/{self.operator}/{self.positions}"


def evaluate(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: results.parquet, one row per (site, concept, method), and rows/, what each row of text did under each of them.

    Args:
        inputs: `prepare` and `fit`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(inputs["prepare"])
    methods = [
        Method(ranges, operator, config.interventions.positions)
        for ranges in read_ranges(inputs["fit"] / "ranges.parquet")
        for operator in config.interventions.operators
    ]
    table, scores = evaluate_methods(checkpoint, dataset, methods, config)
    write_table(out / "results.parquet", table)
    (out / "rows").mkdir()
    for site in sorted({method.ranges.site for method in methods}):
        write_table(out / "rows" / f"site={site}.parquet", _rows_table(methods, scores, dataset, str(site)))
    return {
        "methods": len(methods),
        "rows": len(scores.rows),
        "no_op_difference": scores.no_op_difference,
        "suffix_difference": scores.suffix_difference,
        "bootstrap": config.evaluate.bootstrap,
        "perplexity": bool(config.evaluate.auxiliary) and checkpoint.kind == "language_model",
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "device": default_device(),
        "seed": config.seed,
    }


def evaluate_methods(
    checkpoint: Checkpoint, dataset: Dataset, methods: Sequence[Method], config: Config | None = None
) -> tuple[pa.Table, RowScores]:
    """Measure methods on the test rows.

    Args:
        config: how rows become tokens, how they are scored, and the auxiliary text; the defaults unless told otherwise.

    Returns:
        results.parquet as a table, one row per method, and the scores of the single rows behind it.
    """
    config = config or Config()
    edits = [
        Intervention.of(method.ranges, method.operator, method.positions, config.extract.pooling) for method in methods
    ]
    scores = score_rows(
        checkpoint,
        dataset,
        edits,
        scoring=config.evaluate.scoring,
        batch_tokens=config.extract.batch_tokens,
        text=config.dataset,
    )
    results = [_identity(method, config.seed) for method in methods]
    for concept in sorted({method.ranges.concept for method in methods}):
        places = [i for i, method in enumerate(methods) if method.ranges.concept == concept]
        measured = _measure(scores, concept, [i + 1 for i in places], config)
        for i, found in zip(places, measured, strict=True):
            results[i].update(found)
    base: float | None = None
    edited: list[float | None] = [None] * len(methods)
    if config.evaluate.auxiliary is not None and checkpoint.kind == "language_model":
        documents = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
        base, *edited = perplexity(
            *document_losses(checkpoint, documents, edits, max_tokens=config.dataset.max_tokens)
        ).tolist()
    for result, value in zip(results, edited, strict=True):
        result.update({"perplexity": value, "base_perplexity": base})
    return pa.Table.from_pylist(results, schema=_schema()), scores


def _identity(method: Method, seed: int) -> dict[str, Any]:
    ranges = method.ranges
    return {
        "site": str(ranges.site),
        "concept": ranges.concept,
        "method": method.name,
        "saliency": ranges.saliency,
        "top": ranges.top,
        "range": ranges.kind,
        "tau": ranges.tau,
        "neurons": len(ranges.neurons),
        "operator": method.operator,
        "positions": method.positions,
        "seed": seed,
    }


def _measure(scores: RowScores, concept: str, indices: Sequence[int], config: Config) -> list[dict[str, Any]]:
    """The measured columns of all methods on one concept.

    Rates carry Wilson intervals; drops, confidences and selectivity carry paired bootstrap intervals: the same rows are drawn for the
    edited and the unedited model, targets and complement independently.
    """
    target = scores.truth == scores.concepts.index(concept)
    measured: list[dict[str, Any]] = [{} for _ in indices]
    drops: dict[tuple[str, str], Array] = {}
    for group, members in (("target", target), ("complement", ~target)):
        values = {
            "accuracy": scores.correct[:, members].astype(np.float64),
            "confidence": scores.confidence[:, members].astype(np.float64),
        }
        changed, looked_at = scores.changed[:, members].sum(axis=1), scores.looked_at[:, members].sum(axis=1)
        n = int(members.sum())
        for measure, rows in values.items():
            base, edited = rows[0], rows[list(indices)]
            means = bootstrap_means(
                np.vstack([edited, base[None]]), config.evaluate.bootstrap, config.seed, GROUPS.index(group)
            )
            drops[group, measure] = means[-1] - means[:-1]
            low, high = interval(means[:-1])
            drop_low, drop_high = interval(drops[group, measure])
            name = f"{group}_{measure}"
            for i, found in enumerate(measured):
                found[name] = float(edited[i].mean())
                found[f"{name}_low"], found[f"{name}_high"] = (
                    wilson(int(edited[i].sum()), n) if measure == "accuracy" else (float(low[i]), float(high[i]))
                )
                found[f"base_{name}"] = float(base.mean())
                found[f"{name}_drop"] = float(base.mean() - edited[i].mean())
                found[f"{name}_drop_low"], found[f"{name}_drop_high"] = float(drop_low[i]), float(drop_high[i])
        for i, index in enumerate(indices):
            measured[i][f"n_{group}"] = n
            measured[i][f"dose_{group}"] = float(changed[index] / looked_at[index]) if looked_at[index] else 0.0
    for measure, prefix in (("accuracy", "selectivity"), ("confidence", "confidence_selectivity")):
        low, high = interval(drops["target", measure] - drops["complement", measure])
        for i, found in enumerate(measured):
            found[prefix] = found[f"target_{measure}_drop"] - found[f"complement_{measure}_drop"]
            found[f"{prefix}_low"], found[f"{prefix}_high"] = float(low[i]), float(high[i])
    return measured


def _schema() -> pa.Schema:
    text = [(name, pa.string()) for name in ("site", "concept", "method", "saliency")]
    identity = [
        *text,
        ("top", pa.float64()),
        ("range", pa.string()),
        ("tau", pa.float64()),
        ("neurons", pa.int32()),
        ("operator", pa.string()),
        ("positions", pa.string()),
        ("seed", pa.int64()),
        ("n_target", pa.int32()),
        ("n_complement", pa.int32()),
    ]
    numbers = []
    for group in GROUPS:
        for measure in MEASURES:
            name = f"{group}_{measure}"
            drop = f"{name}_drop"
            numbers += [name, f"{name}_low", f"{name}_high", f"base_{name}", drop, f"{drop}_low", f"{drop}_high"]
    for name in ("selectivity", "confidence_selectivity"):
        numbers += [name, f"{name}_low", f"{name}_high"]
    numbers += ["dose_target", "dose_complement", "perplexity", "base_perplexity"]
    return pa.schema([*identity, *((name, pa.float64()) for name in numbers)])


def _rows_table(methods: Sequence[Method], scores: RowScores, dataset: Dataset, site: str) -> pa.Table:
    """What each test row did under each method of a site: concept and method, then the row's answer and dose."""
    names = np.array([*scores.concepts, None], dtype=object)  # -1, no concept, picks the last
    row = np.array([dataset.row[i] for i in scores.rows])
    tables = []
    for index, method in enumerate(methods, start=1):
        if str(method.ranges.site) != site:
            continue
        columns = {
            "concept": pa.array([method.ranges.concept] * len(row)),
            "method": pa.array([method.name] * len(row)),
            "row": row,
            "predicted": pa.array(names[scores.predicted[index]], pa.string()),
            "correct": scores.correct[index],
            "confidence": scores.confidence[index],
            "changed": scores.changed[index],
            "looked_at": scores.looked_at[index],
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
