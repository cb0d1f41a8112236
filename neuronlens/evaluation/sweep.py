"""The sweep: every method on every concept, against the unedited model on the same rows. Validation rows choose, test rows judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from neuronlens.activations.hidden import KeptBatch, kept_key, take_over
from neuronlens.activations.memory import batch_budget
from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, default_device, open_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import Dataset, read_dataset, read_documents
from neuronlens.evaluation.choice import FAMILIES, choose, members
from neuronlens.evaluation.contrasts import contrasts_table
from neuronlens.evaluation.frontier import frontier_tables, walked
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.measure import MEASURED, SELECTIVITY, adjust, measure
from neuronlens.evaluation.methods import Method, by_place, distinct, read_methods
from neuronlens.evaluation.questions import COLUMNS as QUESTION_COLUMNS
from neuronlens.evaluation.questions import question_columns, question_facts
from neuronlens.evaluation.scoring import RowScores, score_rows
from neuronlens.evaluation.text import document_losses, perplexity
from neuronlens.evaluation.uncertainty import ratio
from neuronlens.interventions.edit import Edit

IDENTITY = (
    *("site", "concept", "method", "setting", "role", "saliency", "top", "range", "base", "tau", "threshold", "gate"),
    *("neurons", "operator", "positions", "seed"),
)
PERPLEXITY = ("perplexity", "base_perplexity", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high")
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("top", "tau", "threshold"), pa.float64()),
    **dict.fromkeys(("neurons", "n_target", "n_complement"), pa.int32()),
    "seed": pa.int64(),
}


def evaluate(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: results.parquet (one row per site, concept and method) and rows/ (what each row of text did under each of them).

    Where there are candidates of the tuned method, also validation.parquet (what choices were made on), chosen.parquet (what was chosen, in
    the words of results.parquet), contrasts.parquet (that against its controls), frontier.parquet and matched.parquet (methods at equal
    target drops).

    Args:
        inputs: `prepare` and `fit`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(inputs["prepare"])
    known = read_methods(inputs["fit"], config)
    candidates = [method for method in known if not method.is_control] if config.interventions.tuned else []
    kept = take_over(kept_key(config, checkpoint, dataset, batch_budget(config.extract.batch_tokens, checkpoint.model)))
    tried = None
    if candidates and "validation" in dataset.split:
        tried = _Scored(checkpoint, dataset, candidates, config, "validation", kept)
    chosen = _choices(candidates, tried)
    # test rows see those candidates that the validation rows chose or put on a path, and the controls of what was chosen
    mirrored = [candidates[i] for (_, _, family), i in chosen.items() if family == "tuned"]
    walks = {} if tried is None else walked(candidates, tried.scores, tried.places)
    of_use = {id(candidates[i]) for i in (*chosen.values(), *chain(*walks.values()))}
    methods = [
        method
        for method in known
        if method.role == "sweep"
        or id(method) in of_use
        or (method.is_control and any(method.mirrors(other) for other in mirrored))
    ]
    judged = _Scored(checkpoint, dataset, methods, config, "test", kept)
    losses = _losses(checkpoint, judged.edits, config)
    rows = _results(checkpoint, judged, losses, config)
    write_table(out / "results.parquet", adjust(pa.Table.from_pylist(rows, schema=_schema())))
    if chosen:
        aliases = _aliases(methods, candidates, chosen)
        renamed = [{**rows[i], "method": name, "role": "chosen"} for name, i in aliases]
        write_table(out / "chosen.parquet", adjust(pa.Table.from_pylist(renamed, schema=_schema())))
        edits: dict[tuple[str, str], dict[str, int]] = {}
        for name, i in aliases:
            edits.setdefault((rows[i]["site"], name), {})[rows[i]["concept"]] = judged.places[i]
        write_table(out / "contrasts.parquet", contrasts_table(judged.scores, edits))
    if tried is not None:
        write_table(out / "validation.parquet", tried.table(config.seed))
        judgeable = {*map(id, methods)}
        run = [method for method in candidates if id(method) in judgeable]
        frontier, matched = frontier_tables(
            run,
            (tried.scores, tried.of(run)),
            (judged.scores, judged.of(run)),
            losses,
            resamples=config.evaluate.bootstrap,
            seed=config.seed,
        )
        write_table(out / "frontier.parquet", frontier)
        write_table(out / "matched.parquet", matched)
    (out / "rows").mkdir()
    for site in sorted({method.ranges.site for method in methods}):
        write_table(out / "rows" / f"site={site}.parquet", _rows_table(judged, dataset, str(site)))
    scores = judged.scores
    return {
        "methods": len(methods),
        "edits": len(judged.edits),
        "rows": len(scores.rows),
        "validation_rows": 0 if tried is None else len(tried.scores.rows),
        "no_op_difference": scores.no_op_difference,
        "suffix_difference": scores.suffix_difference,
        "suffix_tolerance": scores.suffix_tolerance,
        "bootstrap": config.evaluate.bootstrap,
        "perplexity": losses is not None,
        "questions": question_facts(checkpoint, config),
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
        results.parquet as a table, one row per method, and the scores of the single rows behind it, index i + 1 being method i.
    """
    config = config or Config()
    judged = _Scored(checkpoint, dataset, methods, config, "test")
    losses = _losses(checkpoint, judged.edits, config)
    rows = _results(checkpoint, judged, losses, config)
    return adjust(pa.Table.from_pylist(rows, schema=_schema())), judged.scores.take(judged.places)


class _Scored:
    """Scores of some methods on the rows of a split. Methods that do the same to the model are run once.

    Attributes:
        methods: as given.
        edits: that differ.
        places: index of each method's edit in the scores, from 1.
        scores: of the edits.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dataset: Dataset,
        methods: Sequence[Method],
        config: Config,
        split: Literal["validation", "test"],
        kept: Mapping[str, Sequence[KeptBatch]] | None = None,
    ) -> None:
        self.methods = methods
        different, index = distinct(methods)
        self.edits = [method.edit(config.extract.pooling) for method in different]
        self.places = [i + 1 for i in index]
        self.scores = score_rows(
            checkpoint,
            dataset,
            self.edits,
            split=split,
            scoring=config.evaluate.scoring,
            batch_tokens=batch_budget(config.extract.batch_tokens, checkpoint.model),
            text=config.dataset,
            kept=(kept or {}).get(split, ()),
        )
        self._known = {id(method): place for method, place in zip(methods, self.places, strict=True)}

    def of(self, methods: Sequence[Method]) -> list[int]:
        """Index of some of the methods' edits in the scores."""
        return [self._known[id(method)] for method in methods]

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Identity and measured columns of every method."""
        rows: list[dict[str, Any]] = [method.identity | {"seed": seed} for method in self.methods]
        for (_, concept), places in by_place(self.methods).items():
            found = measure(self.scores, concept, [self.places[i] for i in places])
            for i, columns in zip(places, found, strict=True):
                rows[i] |= columns
        return rows

    def table(self, seed: int) -> pa.Table:
        """validation.parquet."""
        names = [*IDENTITY, "n_target", "n_complement", *MEASURED]
        return adjust(pa.Table.from_pylist(self.rows(seed), schema=_columns(names)))


def _choices(candidates: Sequence[Method], tried: _Scored | None) -> dict[tuple[str, str, str], int]:
    """(site, concept, family) -> place of the candidate that the validation rows choose; the first where there are none."""
    scores = [] if tried is None else tried.rows(0)
    found: dict[tuple[str, str, str], int] = {}
    for site, concept in by_place(candidates):
        for family in FAMILIES:
            own = members(candidates, site, concept, family)
            if own:
                selectivity, confidence = (
                    np.array([np.nan if not scores or scores[i][name] is None else scores[i][name] for i in own])
                    for name in SELECTIVITY.values()
                )
                found[site, concept, family] = own[choose([candidates[i] for i in own], selectivity, confidence)]
    return found


def _losses(checkpoint: Checkpoint, edits: Sequence[Edit], config: Config) -> Losses | None:
    if config.evaluate.auxiliary is None or checkpoint.kind != "language_model":
        return None
    documents = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
    return Losses(*document_losses(checkpoint, documents, edits, max_tokens=config.dataset.max_tokens))


def _results(checkpoint: Checkpoint, judged: _Scored, losses: Losses | None, config: Config) -> list[dict[str, Any]]:
    """The rows of results.parquet, in the order of the methods."""
    rows = judged.rows(config.seed)
    ratios = _perplexities(losses, len(judged.edits))
    questions = question_columns(checkpoint, judged.edits, config)
    for row, place in zip(rows, judged.places, strict=True):
        row |= ratios[place - 1] | questions[place - 1]
    return rows


def _perplexities(losses: Losses | None, edits: int) -> list[dict[str, float | None]]:
    """[M] perplexity with and without the edit, and their ratio with its interval over documents."""
    if losses is None:
        return [dict.fromkeys(PERPLEXITY) for _ in range(edits)]
    values = perplexity(losses.losses, losses.predicted)
    with np.errstate(over="ignore"):
        spread = np.exp(ratio(losses.losses[1:] - losses.losses[0], losses.predicted))
    return [
        dict(zip(PERPLEXITY, map(float, (value, values[0], *spread[:, i])), strict=True))
        for i, value in enumerate(values[1:])
    ]


def _aliases(
    methods: Sequence[Method], candidates: Sequence[Method], chosen: Mapping[tuple[str, str, str], int]
) -> list[tuple[str, int]]:
    """What the validation rows chose, under the family's name, which is the same for all concepts; its controls likewise."""
    found = []
    place = {id(method): i for i, method in enumerate(methods)}
    for (_, _, family), at in chosen.items():
        method = candidates[at]
        found.append((family, place[id(method)]))
        if family == "tuned":
            found += [
                (f"tuned/{other.identity['range']}", i) for i, other in enumerate(methods) if other.mirrors(method)
            ]
    return found


def _schema() -> pa.Schema:
    return _columns([*IDENTITY, "n_target", "n_complement", *MEASURED, *PERPLEXITY, *QUESTION_COLUMNS])


def _columns(names: Sequence[str]) -> pa.Schema:
    text = {*IDENTITY} - {*_TYPES}
    return pa.schema([(name, pa.string() if name in text else _TYPES.get(name, pa.float64())) for name in names])


def _rows_table(judged: _Scored, dataset: Dataset, site: str) -> pa.Table:
    """What each test row did under each method of a site: concept, role and method, then the row's answer and dose."""
    scores = judged.scores
    names = np.array([*scores.concepts, None], dtype=object)  # -1, no concept, picks the last
    row = np.array([dataset.row[i] for i in scores.rows])
    tables = []
    for method, index in zip(judged.methods, judged.places, strict=True):
        if str(method.ranges.site) != site:
            continue
        columns = {
            "concept": pa.array([method.ranges.concept] * len(row)),
            "role": pa.array([method.role] * len(row)),
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
