"""An audit as an MLflow run: parameters, numbers, report, and where it all came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronlens import artifact
from neuronlens.config import SHARED
from neuronlens.report.metrics import concept_metrics
from neuronlens.stages import STAGES, flat
from tasks.audits import Audit
from tasks.tracking.store import LONGEST, Given, Note, Recorded, Store

_FILES = ("report.html", "summary.md", "audit.json", "metrics.json", "plots")
_TABLE, FIGURES = "results.json", "figures"


def state_key(folder: Path) -> str:
    """Identity of the state that an audit is in: what its artifacts hold and were made of."""
    return artifact.hash_value({name: artifact.content_hash(folder / name) for name in STAGES})


def record(audit: Audit, decisions: Mapping[str, str] | None = None, *, flow_run: str | None = None) -> Recorded | None:
    """Note the state of an audit, unless that has been done; None where no store is configured and the audit is in no workspace.

    Args:
        decisions: stage -> what became of it, and why.
        flow_run: id of the Prefect run that made it.

    Raises:
        StoreError: the store cannot be used, and what can be done about it. The audit is as complete as before.
    """
    store = Store.of(audit.workspace)
    if store is None:
        return None

    return store.note(
        state_key(audit.folder),
        "audit",
        lambda: experiment_of(audit.folder),
        lambda: _note(audit, decisions or {}, flow_run),
    )


def find(audit: Audit) -> Recorded | None:
    """The run that notes the state of an audit; None where there is none."""
    store = Store.of(audit.workspace)
    return None if store is None else store.find(state_key(audit.folder), "audit")


def origin(audit: Audit) -> tuple[Recorded, dict[str, str]] | None:
    """The run that notes the state of an audit, and its tags: who made what of it, from which commit; None where there is none.

    Raises:
        StoreError: the store cannot be used.
    """
    store = Store.of(audit.workspace)
    if store is None:
        return None
    key = state_key(audit.folder)
    found = store.known(key) or store.find(key, "audit")
    return None if found is None else (found, store.tags(found.run))


def store_uri(audit: Audit) -> str | None:
    """Where the runs of an audit are noted; None where they are not."""
    store = Store.of(audit.workspace)
    return None if store is None else store.uri


def experiment_of(folder: Path) -> str:
    """The experiment of the data set of the audit in a folder."""
    return str(artifact.read_manifest(folder / "prepare")["facts"]["dataset"]["name"])


def _note(audit: Audit, decisions: Mapping[str, str], flow_run: str | None) -> Note:
    from neuronlens.figures import drawings  # takes a while to import, and only a new state is drawn

    document, report = _document(audit.folder), audit.folder / "report"
    # whom it is shared with is nobody's business
    told = flat(audit.config.model_dump(mode="json", exclude={"gates", *SHARED}))
    return Note(
        audit.folder.resolve().name,
        _tags(audit, document, decisions, flow_run),
        {name: str(value) for name, value in told},
        artifact.read_json(report / "metrics.json") | concept_metrics(document),
        [
            Given(context, str(document[context]["name"]), str(document[context]["fingerprint"]), str(path))
            for context, path in (
                ("dataset", audit.config.dataset.path),
                ("checkpoint", audit.config.checkpoint.path),
            )
        ],
        [report / name for name in _FILES],
        {_TABLE: _results(audit.folder)},
        {f"{FIGURES}/{name}": svg for name, svg in drawings(document).items()},
    )


def _tags(
    audit: Audit, document: Mapping[str, Any], decisions: Mapping[str, str], flow_run: str | None
) -> dict[str, str]:
    checkpoint = document["checkpoint"]
    tags = {f"neuronlens.{stage}": told[:LONGEST] for stage, told in decisions.items()}
    tags |= {
        "neuronlens.audit": audit.folder.resolve().name,
        "neuronlens.checkpoint": str(checkpoint["name"]),
        "neuronlens.fingerprint": str(checkpoint["fingerprint"]),
    }
    if flow_run is not None:
        tags["prefect.flow_run"] = flow_run
    if audit.workspace is not None and audit.pipeline is not None:
        known = audit.workspace.outputs([audit.pipeline.address(name) for name in STAGES])
        tags |= {f"dvc.{path}": md5 for path, md5 in known.items()}
        commit = audit.workspace.git_commit()
        if commit is not None:
            tags["git.commit"] = commit
    return tags


def _results(folder: Path) -> dict[str, Any]:
    """results.parquet as MLflow's page shows a table. (`log_table` would take it through pandas.)"""
    table = artifact.read_table(folder / "evaluate" / "results.parquet")
    columns = [
        [None if isinstance(value, float) and not math.isfinite(value) else value for value in column.to_pylist()]
        for column in table.columns
    ]
    return {"columns": table.column_names, "data": [*map(list, zip(*columns, strict=True))]}


def _document(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = artifact.read_json(folder / "report" / "audit.json")
    return found
