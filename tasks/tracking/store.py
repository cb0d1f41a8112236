"""The MLflow store: where runs are noted and found again, once each."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from neuronlens.artifact import write_whole
from neuronlens.errors import NeuronLensError, redacted
from tasks.versioning import LOCKS, Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

KEY = "neuronlens.key"
LONGEST = 6000  # characters of a parameter
_SQLITE, _DATABASE, _FILES = "sqlite:///", "mlflow.db", "mlruns"
_AT_ONCE = 100  # parameters in a batch
# MLflow asks a server that is away for minutes, with nothing told in the meantime, and writes addresses and bars amid what is printed
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_NOTED = "The {what} is complete and kept; run the same command again to note it."


class StoreError(NeuronLensError):
    """An MLflow store cannot be used. What was computed is kept."""


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


@dataclass(frozen=True)
class Given:
    """What went into a run.

    Attributes:
        context: `dataset` or `checkpoint`.
        name: what it is called.
        digest: of its content; MLflow shows 36 characters of it, the whole one is a tag.
        path: where it lay.
    """

    context: str
    name: str
    digest: str
    path: str


@dataclass(frozen=True)
class Note:
    """What a run says.

    Attributes:
        name: of the run.
        tags, params: name -> text.
        metrics: name -> number, of any name; what is not finite is left out.
        inputs: what went in.
        files: files and folders to be kept with it.
        tables: file name -> columns and data, as MLflow's page shows a table.
        texts: file name -> text of what is kept beside the files.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    inputs: Sequence[Given] = ()
    files: Sequence[Path] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """Where runs are noted.

    Attributes:
        uri: its address.
        workspace: whose runs are noted there; None outside of any.
    """

    uri: str
    workspace: Workspace | None

    @classmethod
    def of(cls, workspace: Workspace | None) -> Store | None:
        """The one that MLFLOW_TRACKING_URI names, else mlflow.db at the root of the workspace; None where there is neither."""
        asked = os.environ.get("MLFLOW_TRACKING_URI")
        if asked:
            return cls(asked, workspace)
        return None if workspace is None else cls(_own(workspace), workspace)

    @property
    def missing(self) -> bool:
        """Whether it is a database that is not there yet."""
        return self.uri.startswith(_SQLITE) and not Path(self.uri.removeprefix(_SQLITE)).exists()

    def known(self, key: str) -> Recorded | None:
        """The run of a key as this workspace remembers it, which saves importing MLflow and asking it; None where it does not."""
        run = self._remembered().get(key)
        return None if run is None else Recorded(run, self.uri, new=False)

    def note(self, key: str, what: str, experiment: Callable[[], str], note: Callable[[], Note]) -> Recorded:
        """The run of a key; made where there is none.

        Args:
            key: identity of what is noted.
            what: it is, in a word.
            experiment, note: name of the experiment, and what the run says; not asked where the run is known.

        Raises:
            StoreError: the store cannot be used, and what can be done about it.
        """
        known = self.known(key)
        if known is not None:
            return known
        if self.workspace is not None and self.uri == _own(self.workspace):
            self.workspace.keep_out_of_git([_DATABASE, _FILES])
        with self._alone(), in_words(self.uri, _NOTED.format(what=what)):
            client = client_of(self.uri)
            own = self._experiment(client, experiment())
            there = _search(client, [own], key)
            run = there or _new_run(client, own, key, note())
        self._remember(key, run)
        return Recorded(run, self.uri, new=there is None)

    def find(self, key: str, what: str) -> Recorded | None:
        """The run of a key; None where there is none.

        Raises:
            StoreError: the store cannot be used.
        """
        if self.missing:
            return None
        with self._alone(), in_words(self.uri, _NOTED.format(what=what)):
            client = client_of(self.uri)
            run = _search(client, [found.experiment_id for found in client.search_experiments()], key)
            return None if run is None else Recorded(run, self.uri, new=False)

    def tags(self, run: str) -> dict[str, str]:
        """What a run of this store is marked with.

        Raises:
            StoreError: the store cannot be used, or has no such run.
        """
        with self._alone(), in_words(self.uri):
            return dict(client_of(self.uri).get_run(run).data.tags)

    def _experiment(self, client: MlflowClient, name: str) -> str:
        known = client.get_experiment_by_name(name)
        if known is not None:
            if known.lifecycle_stage != "active":
                client.restore_experiment(known.experiment_id)
            return str(known.experiment_id)
        local = self.workspace is not None and not os.environ.get("MLFLOW_TRACKING_URI")
        place = (self.workspace.root / _FILES).as_uri() if local and self.workspace is not None else None
        return str(client.create_experiment(name, artifact_location=place))

    def _remembered(self) -> dict[str, str]:
        """Key -> run, of a store that is still there."""
        if self.workspace is None or self.missing:
            return {}
        with suppress(OSError, ValueError, AttributeError):
            return dict(json.loads(_notes(self.workspace).read_text()).get(self.uri, {}))
        return {}

    def _remember(self, key: str, run: str) -> None:
        if self.workspace is None:
            return
        write_whole(_notes(self.workspace), json.dumps({self.uri: self._remembered() | {key: run}}))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Processes that make the tables of one new database at once are in each other's way."""
        if self.workspace is None or not self.uri.startswith(_SQLITE):
            yield
            return
        folder = self.workspace.root / ".dvc" / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "mlflow.lock", thread_local=False):
            yield


def _own(workspace: Workspace) -> str:
    return f"{_SQLITE}{workspace.root / _DATABASE}"


def _notes(workspace: Workspace) -> Path:
    return workspace.root / ".dvc" / LOCKS / "noted.json"


def client_of(uri: str) -> MlflowClient:
    """A quiet client that gives up on a server that is away within half a minute or so, unless the user has asked for more."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import logging

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # tables that it creates at first are told line by line
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _search(client: MlflowClient, experiments: Sequence[str], key: str) -> str | None:
    query = f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'"
    found = client.search_runs([*experiments], query, max_results=1)
    return str(found[0].info.run_id) if found else None


def _new_run(client: MlflowClient, experiment: str, key: str, note: Note) -> str:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    run_id = str(client.create_run(experiment, run_name=note.name, tags={**note.tags, KEY: key}).info.run_id)
    try:
        params = [Param(name, value[:LONGEST]) for name, value in note.params.items()]
        for start in range(0, len(params), _AT_ONCE):
            client.log_batch(run_id, params=params[start : start + _AT_ONCE])
        metrics = [
            Metric(name, value, now, 0) for name, value in metric_names(note.metrics).items() if math.isfinite(value)
        ]
        for start in range(0, len(metrics), 10 * _AT_ONCE):
            client.log_batch(run_id, metrics=metrics[start : start + 10 * _AT_ONCE])
        if note.inputs:
            client.log_inputs(run_id, datasets=[_input(given) for given in note.inputs])
        for path in note.files:
            client.log_artifact(run_id, str(path))
        for name, text in note.texts.items():
            client.log_text(run_id, text, name)
        for name, table in note.tables.items():
            client.log_dict(run_id, table, name)
        if note.tables:
            shown = [{"path": name, "type": "table"} for name in note.tables]
            client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _input(given: Given) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": given.path})
    tags = [InputTag("mlflow.data.context", given.context), InputTag("sha256", given.digest)]
    return DatasetInput(Dataset(given.name, given.digest[:36], "local", source), tags)


def metric_names(measured: Mapping[str, float]) -> dict[str, float]:
    """Names that MLflow takes, which must not be ways out of a folder either. Two that become one are counted."""
    found: dict[str, float] = {}
    for name, value in measured.items():
        parts = re.sub(r"[^\w./: -]|^\.\.", "_", name.strip())[:240].strip().split("/")
        plain = known = "/".join("_" if part in ("", ".", "..") else part for part in parts)
        count = 2
        while plain in found:
            plain, count = f"{known} {count}", count + 1
        found[plain] = float(value)
    return found


@contextmanager
def in_words(uri: str, kept: str = "") -> Iterator[None]:
    """What goes wrong with the store, in a line.

    Args:
        kept: what is not lost by it.

    Raises:
        StoreError: something did, with the cure that fits.
    """
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
        raise StoreError(f"{redacted(f'MLflow store {uri}: {text[:200]}.')} {cure} {kept}".strip()) from error
