"""The sweep: every method on every concept, against the unedited model on the same rows. Validation rows choose, test rows judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuronlens.activations.memory import batch_budget
from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, device_of
from neuronlens.config import Config
from neuronlens.dataset import Dataset
from neuronlens.evaluation.contrasts import contrasts_table
from neuronlens.evaluation.frontier import frontier_tables
from neuronlens.evaluation.joint import joint_table
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.measure import MEASURED, adjust
from neuronlens.evaluation.methods import Method, distinct
from neuronlens.evaluation.planned import JOINT, QUESTIONS, RECONSTRUCTED, TEST, TEXT, VALIDATION, Evaluation, Scored
from neuronlens.evaluation.questions import COLUMNS as QUESTION_COLUMNS
from neuronlens.evaluation.questions import asked_questions, question_columns, question_facts, score_questions
from neuronlens.evaluation.scoring import RowScores, score_rows
from neuronlens.evaluation.text import PERPLEXITY, document_losses, perplexity_columns
from neuronlens.parts import Held, Parts
from neuronlens.sources import Sources
from neuronlens.text_files import read_documents

IDENTITY = (
    *("site", "concept", "method", "setting", "role", "saliency", "top", "range", "base", "tau", "threshold", "gate"),
    *("neurons", "operator", "positions", "seed"),
)
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("top", "tau", "threshold"), pa.float64()),
    **dict.fromkeys(("neurons", "n_target", "n_complement"), pa.int32()),
    "seed": pa.int64(),
}


def evaluate(config: Config, inputs: Mapping[str, Path], out: Path, parts: Parts | None = None) -> dict[str, object]:
    """The stage: results.parquet (one row per site, concept and method), rows/ (what each row of text did under each), documents/ (the
    same of ordinary text, where there is some).

    Where there are candidates of the tuned method, also validation.parquet (what choices were made on), chosen.parquet (what was chosen, in
    the words of results.parquet), contrasts.parquet (that against its controls), frontier.parquet and matched.parquet (methods at equal
    target drops); and with several sites joint.parquet (the best of them edited together).

    Args:
        inputs: `prepare` and `fit`, the folders of those stages.
        out: an empty folder.
        parts: groups of rows that are scored already are not scored again; all are, unless told otherwise.

    Returns:
        Facts for the manifest.
    """
    own = Parts(out / ".parts") if parts is None else parts
    job = _Score(own.folder, Sources(config, inputs))
    try:
        facts = _evaluate(job, own, out)
    finally:
        _held.clear()
    if parts is None:
        own.clear()
    return facts


def _evaluate(job: _Score, parts: Parts, out: Path) -> dict[str, object]:
    found, config = job.plan(), job.sources.config
    checkpoint, dataset, candidates = found.checkpoint, found.dataset, found.candidates
    tried: Scored | None = None
    validated: Mapping[str, Path] = {}
    if found.validates:
        validated = parts.make(found.names(VALIDATION), job)
        tried = found.scored(VALIDATION, validated)
    settled = found.judge(tried)
    chosen, methods = settled.chosen, settled.methods
    names = [name for kind in (TEST, JOINT, TEXT, QUESTIONS, RECONSTRUCTED) for name in found.names(kind)]
    tested = parts.make(names, job.after(validated))
    judged, losses = found.scored(TEST, tested), found.losses(tested)
    rows = _results(judged, losses, question_columns(found.answers(tested), len(judged.edits)), config)
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
        write_table(out / "validation.parquet", _validation(tried, config.seed))
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
    together = found.joint(tested)
    if together is not None:
        best = judged.of([method.methods[0] for method in settled.joint])
        write_table(out / "joint.parquet", joint_table(together, judged.scores, best, config.seed))
    for name in ("rows", *(["documents"] if losses is not None else [])):
        (out / name).mkdir()
    for site in sorted({method.ranges.site for method in methods}):
        write_table(out / "rows" / f"site={site}.parquet", _rows_table(judged, dataset, str(site)))
        if losses is not None:
            write_table(out / "documents" / f"site={site}.parquet", _documents_table(judged, losses, str(site)))
    checked = [judged.scores, *([] if together is None else [together.scores])]
    return {
        "methods": len(methods),
        "edits": len(judged.edits),
        "rows": len(judged.scores.rows),
        "validation_rows": 0 if tried is None else len(tried.scores.rows),
        "no_op_difference": max(scores.no_op_difference for scores in checked),
        "suffix_difference": max(scores.suffix_difference for scores in checked),
        "suffix_tolerance": judged.scores.suffix_tolerance,
        "bootstrap": config.evaluate.bootstrap,
        "perplexity": losses is not None,
        "questions": question_facts(found.asked),
        "autoencoders": found.autoencoders(tested),
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "device": device_of(checkpoint),
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
    different, index = distinct(methods)
    edits, places = [method.edit(config.extract.pooling) for method in different], [i + 1 for i in index]
    budget = batch_budget(config.extract.batch_tokens, checkpoint.model)
    scores = score_rows(
        checkpoint, dataset, edits, scoring=config.evaluate.scoring, batch_tokens=budget, text=config.dataset
    )
    losses, asked = None, asked_questions(checkpoint, config)
    if config.evaluate.auxiliary is not None and checkpoint.kind == "language_model":
        documents = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
        losses = Losses(*document_losses(checkpoint, documents, edits, max_tokens=config.dataset.max_tokens))
    answers = None if asked is None else score_questions(checkpoint, asked, edits, batch_tokens=budget)
    judged = Scored(methods, edits, places, scores)
    rows = _results(judged, losses, question_columns(answers, len(edits)), config)
    return adjust(pa.Table.from_pylist(rows, schema=_schema())), scores.take(places)


_held: Held[Evaluation] = Held()


@dataclass(frozen=True)
class _Score:
    """Scores a part, in whichever process it is.

    Attributes:
        key: where the parts lie: no other run's lie there.
        sources: of the stage; the parts on validation rows among the folders, where this one is made after them.
        validated: names of these; None where it is one of them.
    """

    key: Path
    sources: Sources
    validated: tuple[str, ...] | None = None

    def __call__(self, name: str, out: Path) -> Mapping[str, object]:
        found = self.plan()
        if self.validated is not None and found.judged is None:
            parts = {part: self.sources.folders[part] for part in self.validated}
            found.judge(found.scored(VALIDATION, parts) if parts else None)
        return found.make(name, out)

    def plan(self) -> Evaluation:
        """The plan of the run, made once in each process."""
        return _held.get(self.key, lambda: Evaluation(self.sources.config, self.sources.folders))

    def after(self, validated: Mapping[str, Path]) -> _Score:
        """The same for parts that need what the validation rows say."""
        folders = {**self.sources.folders, **validated}
        return replace(self, sources=replace(self.sources, folders=folders), validated=(*validated,))

    @property
    def places(self) -> Mapping[str, Path]:
        return self.sources.places

    def at(self, places: Mapping[str, Path]) -> _Score:
        return replace(self, sources=self.sources.at(places))


def _validation(tried: Scored, seed: int) -> pa.Table:
    """validation.parquet."""
    names = [*IDENTITY, "n_target", "n_complement", *MEASURED]
    return adjust(pa.Table.from_pylist(tried.rows(seed), schema=_columns(names)))


def _results(
    judged: Scored, losses: Losses | None, questions: Sequence[Mapping[str, float | None]], config: Config
) -> list[dict[str, Any]]:
    """The rows of results.parquet, in the order of the methods."""
    rows = judged.rows(config.seed)
    ratios = perplexity_columns(None if losses is None else (losses.losses, losses.predicted), len(judged.edits))
    for row, place in zip(rows, judged.places, strict=True):
        row |= {**ratios[place - 1], **questions[place - 1]}
    return rows


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


def _documents_table(judged: Scored, losses: Losses, site: str) -> pa.Table:
    """What each document cost, in nats, unedited and under each method of a site: concept, role and method, then the document's loss."""
    count = len(losses.predicted)
    tables = []
    for method, index in zip(judged.methods, judged.places, strict=True):
        if str(method.ranges.site) != site:
            continue
        columns = {
            "concept": pa.array([method.ranges.concept] * count),
            "role": pa.array([method.role] * count),
            "method": pa.array([method.name] * count),
            "document": np.arange(count, dtype=np.int32),
            "predicted": losses.predicted.astype(np.int32),
            "base_loss": losses.losses[0].astype(np.float64),
            "loss": losses.losses[index].astype(np.float64),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _rows_table(judged: Scored, dataset: Dataset, site: str) -> pa.Table:
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
