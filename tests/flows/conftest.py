"""A folder to run the command line in, an audit that is done, and a Prefect server."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.engine import run_audit
from flows.server import prefect_api
from neuronlens.config import Config
from neuronlens.params import load_config
from tasks.environment import set_environment
from tasks.tracking.store import client_of
from tasks.versioning import Workspace
from tests.conftest import labelled, sentences
from tests.models import save_checkpoint

set_environment()  # before Prefect is imported, as the command line does


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpt2/, bert/, data.csv, aux.txt."""
    folder = tmp_path_factory.mktemp("originals")
    for family in ("gpt2", "bert"):
        save_checkpoint(folder / family, family)
    rows = labelled()
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        writer.writerows(zip(rows.text, rows.concept, rows.split, strict=True))
    (folder / "aux.txt").write_text("\n".join(sentences(8, seed=1)))
    return folder


@pytest.fixture
def here(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the originals as the current folder."""
    return copied(originals, tmp_path / "here", monkeypatch)


def copied(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a folder as the current one."""
    shutil.copytree(folder, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="session")
def workspace_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Workspace]:
    """Makes workspaces in which MLflow has made its tables, which takes it longer than a tiny audit's stages do."""
    tables = tmp_path_factory.mktemp("tables") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tables.parent)
        client_of(f"sqlite:///{tables}").search_experiments()

    def make(root: Path) -> Workspace:
        made = Workspace.create(root)
        shutil.copy(tables, root)
        return made

    return make


@pytest.fixture(scope="session")
def configure(originals: Path) -> Callable[..., Config]:
    """A quick configuration on the originals, and what a test wants otherwise."""

    def make(*overrides: str) -> Config:
        sweep = ["fit.rows=all", "fit.saliency=mean_abs", "interventions.tau=2.0", "evaluate.bootstrap=100"]
        paths = [f"checkpoint.path={originals / 'gpt2'}", f"dataset.path={originals / 'data.csv'}"]
        return load_config(None, [*paths, f"evaluate.auxiliary={originals / 'aux.txt'}", *sweep, *overrides])

    return make


@pytest.fixture(scope="session")
def audited(configure: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of `configure()`, made without Prefect."""
    folder = tmp_path_factory.mktemp("audited") / "audit"
    run_audit(configure(), folder, use_flow=False)
    return folder


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Prefect keeps its files during the tests; making its database is most of a server's first start."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> Iterator[None]:
    """The server that a run starts for itself, one for all tests that run flows."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings({PREFECT_HOME: prefect_home}, restore_defaults={PREFECT_API_URL}), prefect_api():
        yield
