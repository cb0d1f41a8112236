"""What was audited, with which outcome: one MLflow run for each distinct state of an audit. This is the one module that imports MLflow.

A state is what its five artifacts hold. A run of the audit that finds everything current is no new state and leaves nothing behind; a
team-mate's first look at a state in a store of his own does. The bytes stay in DVC, whose hashes are tags here.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from neuronlens import artifact
from neuronlens.config import SHARED
from neuronlens.errors import NeuronLensError, UserError, redacted
from neuronlens.incoming import Incoming
from neuronlens.report.metrics import concept_metrics
from neuronlens.stages import STAGES, flat
from tasks.audits import Audit
from tasks.versioning import LOCKS, Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

KEY = "neuronlens.key"
_SQLITE, _DATABASE, _FILES = "sqlite:///", "mlflow.db", "mlruns"
_LOGGED = ("report.html", "summary.md", "audit.json", "metrics.json", "plots")
_TABLE = "results.json"
_LONGEST = 6000  # characters of a parameter
_AT_ONCE = 100  # parameters in a batch


@dataclass(frozen=True)
class Recorded:
    """An MLflow run.

    Attributes:
        run: its id.
        uri: of the store it is in.
        new: whether it has just been made.
    """

    run: str
    uri: str
    new: bool


def state_key(folder: Path) -> str:
    """Identity of the state that an audit is in: what its artifacts hold and were made of."""
    return artifact.hash_value({name: artifact.content_hash(folder / name) for name in STAGES})


def record(audit: Audit, decisions: Mapping[str, str] | None = None, *, flow_run: str | None = None) -> Recorded | None:
    """Note the state of an audit, unless that has been done; None where no store is configured and the audit is in no workspace.

    Args:
        decisions: stage -> what became of it, and why.
        flow_run: id of the Prefect run that made it.

    Raises:
        NeuronLensError: the store cannot be used, and what can be done about it. The audit is as complete as before.
    """
    uri = store_uri(audit)
    if uri is None:
        return None
    key = state_key(audit.folder)
    known = _noted(audit, uri).get(key)
    if known is not None:  # which saves importing MLflow, and asking it
        return Recorded(known, uri, new=False)
    if audit.workspace is not None and uri == _own_store(audit.workspace):
        audit.workspace.keep_out_of_git([_DATABASE, _FILES])
    with _alone(audit, uri), _in_words(uri):
        client = _client(uri)
        experiment = _experiment(client, audit)
        there = client.search_runs(
            [experiment], f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'", max_results=1
        )
        run = (
            str(there[0].info.run_id)
            if there
            else _new_run(client, experiment, audit, _tags(audit, key, decisions or {}, flow_run))
        )
    _note(audit, uri, key, run)
    return Recorded(run, uri, new=not there)


def find(audit: Audit) -> Recorded | None:
    """The run that notes the state of an audit; None where there is none."""
    uri = store_uri(audit)
    if uri is None or (uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists()):
        return None
    with _alone(audit, uri), _in_words(uri):
        client = _client(uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        known = client.search_runs(
            experiments, f"tags.`{KEY}` = '{state_key(audit.folder)}' and attributes.status = 'FINISHED'", max_results=1
        )
        return Recorded(known[0].info.run_id, uri, new=False) if known else None


def registered(name: str) -> list[Incoming]:
    """The versions of a model in MLflow's registry, oldest first.

    Raises:
        UserError: MLFLOW_TRACKING_URI is not set, or there is no such model.
        NeuronLensError: the registry cannot be reached.
    """
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError(
            "no MLflow registry is named",
            where=f"models:/{name}",
            cure="Set MLFLOW_TRACKING_URI to its server or database.",
        )
    with _in_words(uri):
        versions = _client(uri).search_model_versions(f"name='{name.replace(chr(39), '')}'")
    if not versions:
        raise UserError(
            "no version of such a model is registered", where=f"models:/{name}", cure=f"Look into {redacted(uri)}."
        )
    found = [(int(version.version), str(version.source)) for version in versions]
    return [Incoming(f"version-{number}", number, source.removeprefix("file://")) for number, source in sorted(found)]


def store_uri(audit: Audit) -> str | None:
    """Where runs are noted: MLFLOW_TRACKING_URI, else mlflow.db at the root of the workspace."""
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    if asked:
        return asked
    return None if audit.workspace is None else _own_store(audit.workspace)


def _own_store(workspace: Workspace) -> str:
    return f"{_SQLITE}{workspace.root / _DATABASE}"


def _noted(audit: Audit, uri: str) -> dict[str, str]:
    """State -> run, as this workspace remembers it of a store that is still there."""
    if audit.workspace is None or (uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists()):
        return {}
    with suppress(OSError, ValueError, AttributeError):
        return dict(json.loads(_notes(audit.workspace).read_text()).get(uri, {}))
    return {}


def _note(audit: Audit, uri: str, key: str, run: str) -> None:
    if audit.workspace is None:
        return
    file = _notes(audit.workspace)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({uri: _noted(audit, uri) | {key: run}}))
    part.replace(file)


def _notes(workspace: Workspace) -> Path:
    return workspace.root / ".dvc" / LOCKS / "noted.json"


def _client(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # tables that it creates at first are told line by line
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, audit: Audit) -> str:
    """Of the audit's data set."""
    document = _document(audit.folder)
    name = str(document["dataset"]["name"])
    known = client.get_experiment_by_name(name)
    if known is not None:
        if known.lifecycle_stage != "active":
            client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)
    local = None if os.environ.get("MLFLOW_TRACKING_URI") or audit.workspace is None else audit.workspace.root / _FILES
    return str(client.create_experiment(name, artifact_location=None if local is None else local.as_uri()))


def _new_run(client: MlflowClient, experiment: str, audit: Audit, tags: Mapping[str, str]) -> str:
    from mlflow.entities import Metric, Param

    document, now = _document(audit.folder), int(time.time() * 1000)
    run = client.create_run(experiment, run_name=audit.folder.resolve().name, tags=dict(tags))
    run_id = str(run.info.run_id)
    try:
        told = flat(
            audit.config.model_dump(mode="json", exclude={"gates", *SHARED})
        )  # whom it is shared with is nobody's business
        params = [Param(name, str(value)[:_LONGEST]) for name, value in told]
        for start in range(0, len(params), _AT_ONCE):
            client.log_batch(run_id, params=params[start : start + _AT_ONCE])
        measured = artifact.read_json(audit.folder / "report" / "metrics.json") | concept_metrics(document)
        metrics = [
            Metric(name, value, now, 0) for name, value in _metric_names(measured).items() if math.isfinite(value)
        ]
        for start in range(0, len(metrics), 10 * _AT_ONCE):
            client.log_batch(run_id, metrics=metrics[start : start + 10 * _AT_ONCE])
        client.log_inputs(run_id, datasets=_inputs(audit, document))
        for name in _LOGGED:
            client.log_artifact(run_id, str(audit.folder / "report" / name))
        client.log_dict(run_id, _results(audit.folder), _TABLE)
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": _TABLE, "type": "table"}]))
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _tags(audit: Audit, key: str, decisions: Mapping[str, str], flow_run: str | None) -> dict[str, str]:
    checkpoint = _document(audit.folder)["checkpoint"]
    tags = {f"neuronlens.{stage}": told[:_LONGEST] for stage, told in decisions.items()}
    tags |= {
        KEY: key,
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


def _inputs(audit: Audit, document: Mapping[str, Any]) -> list[DatasetInput]:
    """Data and checkpoint, by their digests. MLflow shows 36 characters of one; the whole one is a tag."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for context, name, path in (
        ("dataset", document["dataset"]["name"], audit.config.dataset.path),
        ("checkpoint", document["checkpoint"]["name"], audit.config.checkpoint.path),
    ):
        digest = str(document[context]["fingerprint"])
        source = json.dumps({"uri": str(path)})
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", digest)]
        found.append(DatasetInput(Dataset(str(name), digest[:36], "local", source), tags))
    return found


def _results(folder: Path) -> dict[str, Any]:
    """results.parquet as MLflow's page shows a table. (`log_table` would take it through pandas.)"""
    table = artifact.read_table(folder / "evaluate" / "results.parquet")
    columns = [
        [None if isinstance(value, float) and not math.isfinite(value) else value for value in column.to_pylist()]
        for column in table.columns
    ]
    return {"columns": table.column_names, "data": [*map(list, zip(*columns, strict=True))]}


def _metric_names(measured: Mapping[str, float]) -> dict[str, float]:
    """Names that MLflow takes. Two that become one are counted."""
    found: dict[str, float] = {}
    for name, value in measured.items():
        plain = known = re.sub(r"/{2,}|[^\w./: -]", "_", name).strip("/. ")[:240] or "metric"
        count = 2
        while plain in found:
            plain, count = f"{known} {count}", count + 1
        found[plain] = float(value)
    return found


def _document(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = artifact.read_json(folder / "report" / "audit.json")
    return found


@contextmanager
def _alone(audit: Audit, uri: str) -> Iterator[None]:
    """Processes that make the tables of one new database at once are in each other's way."""
    if audit.workspace is None or not uri.startswith(_SQLITE):
        yield
        return
    folder = audit.workspace.root / ".dvc" / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "mlflow.lock", thread_local=False):
        yield


@contextmanager
def _in_words(uri: str) -> Iterator[None]:
    """What goes wrong with the store, in a line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        text = " ".join(str(error).split())
        if "out-of-date database schema" in text or "Can't locate revision" in text:
            cure = (
                "Another version of MLflow wrote it: install that one, or move the file away; runs are noted anew then."
            )
        elif uri.startswith(_SQLITE):
            cure = "Check that its folder can be written and has room."
        else:
            cure = "Check MLFLOW_TRACKING_URI and that the server runs."
        raise NeuronLensError(
            redacted(f"MLflow store {uri}: {text[:200]}.")
            + f" {cure} The audit is complete and kept; run the same command again to note it."
        ) from error
