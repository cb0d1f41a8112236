"""Models of MLflow's registry: their versions as checkpoints of a line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from neuronlens.artifact import fresh_folder, hash_value, slug
from neuronlens.errors import UserError, redacted
from neuronlens.incoming import Incoming, State, what_lacks
from tasks.tracking.store import StoreError, client_of, in_words
from tasks.versioning import LOCKS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_MODELS, _BROUGHT = "models", ".brought"
_READY, _PENDING = "READY", "PENDING_REGISTRATION"
# as mlflow.transformers lays a model out: what save_pretrained wrote of the model and of its tokenizer, in two folders
_MODEL, _TOKENIZER = "model", "components/tokenizer"


def registered(name: str, root: Path) -> Iterator[Incoming]:
    """The versions of a model in MLflow's registry, oldest first; each is brought here when it is its turn, unless it is here.

    Args:
        name: of the model.
        root: of the workspace, which keeps what is brought.

    Raises:
        UserError: MLFLOW_TRACKING_URI is not set, or there is no such model.
        StoreError: the registry cannot be reached.
    """
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError(
            "no MLflow registry is named",
            where=f"models:/{name}",
            cure="Set MLFLOW_TRACKING_URI to its server or database.",
        )
    quote = '"' if "'" in name else "'"
    with in_words(uri):
        versions = client_of(uri).search_model_versions(f"name={quote}{name}{quote}")
    if not versions:
        raise UserError(
            "no version of such a model is registered", where=f"models:/{name}", cure=f"Look into {redacted(uri)}."
        )
    for version in sorted(versions, key=lambda version: int(version.version)):
        yield _incoming(version, _Shelf(root / ".dvc" / LOCKS / _MODELS, uri))


def _incoming(version: ModelVersion, shelf: _Shelf) -> Incoming:
    number = int(version.version)
    named = f"version-{number}"
    if version.status != _READY:
        state: State = "being written" if version.status == _PENDING else "broken"
        return Incoming(named, number, str(version.source), None, state, f"its registration is {version.status}")
    try:
        folder = _local(str(version.source)) or shelf.brought(version)
    except StoreError as error:
        return Incoming(named, number, str(version.source), None, "broken", str(error))
    problem = next(what_lacks(folder), None)
    return Incoming(named, number, str(folder), None, "whole" if problem is None else "broken", problem)


def _local(source: str) -> Path | None:
    """The folder of a checkpoint that lies on this machine as `save_pretrained` wrote it; None for anything else."""
    parts = urlsplit(source)
    folder = Path(unquote(parts.path)) if parts.scheme == "file" else Path(source)
    return folder if parts.scheme in ("", "file") and (folder / "config.json").is_file() else None


@dataclass(frozen=True)
class _Shelf:
    """What was brought from a registry.

    Attributes:
        folder: that holds it.
        uri: of the registry.
    """

    folder: Path
    uri: str

    def brought(self, version: ModelVersion) -> Path:
        """The checkpoint of a version.

        Raises:
            StoreError: it cannot be had.
        """
        own = hash_value([self.uri, version.name, version.version, version.source, version.creation_timestamp])
        place = self.folder / own[:12] / slug(f"{version.name}-version-{version.version}", "model")
        if not place.is_dir():
            with fresh_folder(place) as folder:
                self._fetch(version, folder)
        return place

    def _fetch(self, version: ModelVersion, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        with in_words(self.uri):
            asked = f"models:/{version.name}/{version.version}"
            got = Path(download_artifacts(asked, dst_path=str(folder / _BROUGHT), registry_uri=self.uri))
        apart = not (got / "config.json").is_file() and (got / _MODEL).is_dir()
        for part in (got / _MODEL, got / _TOKENIZER) if apart else (got,):
            for path in part.iterdir() if part.is_dir() else ():
                path.rename(folder / path.name)
        shutil.rmtree(folder / _BROUGHT)
