"""One neuron masked alone: what its range and what the whole neuron carry, measured on the test rows of its audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neuronlens.activations.store import Activations, read_activations, read_neuron
from neuronlens.artifact import hash_file, read_table
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import Config
from neuronlens.dataset import read_dataset
from neuronlens.errors import CheckpointError, DatasetError, UserError, did_you_mean
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.sweep import evaluate_methods
from neuronlens.evaluation.text import PERPLEXITY
from neuronlens.ranges.selection import Ranges, assemble, bounds
from neuronlens.ranges.statistics import SiteStatistics, fit_statistics
from neuronlens.report.finished import audit_of, measured_on
from neuronlens.report.neurons.place import check_place
from neuronlens.sites import Site

_KEPT = (
    "concept",
    "range",
    "tau",
    "operator",
    "positions",
    "n_target",
    "n_complement",
    "dose_target",
    "dose_complement",
)
_MEASURES = (
    *(f"{group}_{measure}_drop" for group in ("target", "complement") for measure in ("accuracy", "confidence")),
    *("selectivity", "confidence_selectivity"),
)
_COLUMNS = (*_KEPT, *(f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")), *PERPLEXITY)


def mask_neuron(
    audit: Path | str,
    site: str,
    neuron: int,
    concept: str,
    checkpoint: Checkpoint,
    auxiliary: Path | str | None = None,
) -> list[dict[str, Any]]:
    """The effect of masking one neuron and nothing else: its range where the audit has gaussian ranges, and the whole neuron.

    Width, operator and positions are those that the audit's findings speak of. The rows are the audit's own: ranges rest on its fit
    rows, drops are of its test rows.

    Args:
        audit: folder of an audit.
        site, neuron: which.
        concept: whose range is masked, and whose rows are the target.
        checkpoint: the one that the audit is of.
        auxiliary: the text that the audit measured perplexity on; without it there is none here.

    Returns:
        Rows with these columns of results.parquet: concept, range, tau, operator, positions, counts of rows, doses, drops of accuracy and
        of confidence and both selectivities with 95 % intervals, and those of perplexity; beside them `lower` and `upper`, the bounds.

    Raises:
        UserError: there is no such audit, site, neuron or concept, or the checkpoint or the text is another one.
        ArtifactError: the audit is damaged.
    """
    folder, document = Path(audit), audit_of(audit)
    check_place(document, site, neuron)
    check_checkpoint(document, checkpoint)
    config, where = Config.model_validate(document["params"]), Site.parse(site)
    if auxiliary is not None:
        _check_auxiliary(folder, auxiliary)
        config = config.model_copy(
            update={"evaluate": config.evaluate.model_copy(update={"auxiliary": str(auxiliary)})}
        )
    dataset = read_dataset(folder / "prepare")
    if concept not in dataset.concepts:
        raise UserError(f"unknown concept {concept!r}", where=str(folder), cure=did_you_mean(concept, dataset.concepts))
    alone = fit_statistics(_one_neuron(folder, where, neuron), where, rows=config.fit.rows, seed=config.seed)
    setting = next(
        iter(document["settings"]), None
    )  # none where the sweep has neither gaussian ranges nor whole neurons
    tau: float | None = None if setting is None else setting["tau"]
    operator = "zero" if setting is None else setting["operator"]
    kinds = ("full",) if tau is None else ("gaussian", "full")
    masked = [_ranges(alone, concept, neuron, kind, tau) for kind in kinds]
    methods = [Method(ranges, operator, config.interventions.positions) for ranges in masked]
    table, _ = evaluate_methods(checkpoint, dataset, methods, config)
    return [
        {name: row[name] for name in _COLUMNS}
        | {"lower": float(ranges.lower[0, 0]), "upper": float(ranges.upper[0, 0])}
        for row, ranges in zip(table.to_pylist(), masked, strict=True)
    ]


def check_checkpoint(document: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that an audit is not of.

    Raises:
        CheckpointError: its bytes are others.
    """
    known = document["checkpoint"]
    if checkpoint.fingerprint != known["fingerprint"]:
        raise CheckpointError(
            f"is not the checkpoint that this audit is of ({known['name']}, {known['fingerprint'][:8]}), but {checkpoint.fingerprint[:8]}",
            where=str(checkpoint.path),
            cure="Name where that one lies with --checkpoint, or audit this one.",
        )


def _check_auxiliary(audit: Path, auxiliary: Path | str) -> None:
    """Refuse a text that an audit has not measured perplexity on.

    Raises:
        DatasetError: its bytes are others, it is no file, or the audit has measured no perplexity.
    """
    file, known = Path(auxiliary).expanduser(), measured_on(audit)
    if known is None:
        raise DatasetError("has measured no perplexity", where=str(audit), cure="Leave the text away.")
    if not file.is_file():
        raise DatasetError("no such file", where=str(auxiliary), cure="Name the text that the audit was given.")
    if hash_file(file) != known:
        raise DatasetError(
            f"is not the text that this audit has measured perplexity on ({known[:8]})",
            where=str(auxiliary),
            cure="Name where that one lies.",
        )


def _one_neuron(folder: Path, site: Site, neuron: int) -> Activations:
    """Activations of a site that has this neuron only: no other is read."""
    dataset = read_table(folder / "prepare" / "dataset.parquet")
    answers = read_activations(folder / "extract", dataset, [])
    return replace(answers, values={site: read_neuron(folder / "extract", site, neuron)[None]})


def _ranges(alone: SiteStatistics, concept: str, neuron: int, kind: str, tau: float | None) -> Ranges:
    """The neuron's range, at its place among the neurons of the site."""
    width = tau if kind == "gaussian" else None
    only = np.zeros(1, dtype=np.int64)
    identity: dict[str, Any] = {"saliency": "none", "top": 1.0, "kind": kind, "base": kind, "tau": width}
    identity |= {"threshold": None, "gate": "none", "role": "sweep"}
    found = assemble(alone, concept, identity, only, *bounds(alone, concept, only, kind, width, None))
    return replace(found, neurons=np.array([neuron]))
