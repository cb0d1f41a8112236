"""What somebody else has written where an audit is going to be stays as it is, and is told of before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.engine import default_folder, run_audit
from neuronlens.config import Config
from neuronlens.errors import UserError
from neuronlens.stages import Outcome
from tasks.versioning import Workspace
from tests.flows.results import outcomes


@pytest.fixture
def workspace(workspace_at: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty one, as the current folder."""
    found = workspace_at(tmp_path / "ours")
    monkeypatch.chdir(found.root)
    return found


def run(config: Config) -> list[Outcome]:
    """Audit into the workspace's own place."""
    return run_audit(config, default_folder(config), use_flow=False)


def test_files_of_somebody_else_are_not_replaced(workspace: Workspace, configure: Callable[..., Config]) -> None:
    folder = default_folder(configure())
    (folder / "extract").mkdir(parents=True)
    (folder / "extract/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no artifact of NeuronLens"):
        run(configure())
    assert not (folder / "dvc.yaml").exists()


@pytest.mark.parametrize("name", ["dvc.yaml", "audit.yaml", "index.html"])
def test_a_file_of_somebody_else_is_told_of_before_anything_is_computed(
    workspace: Workspace, configure: Callable[..., Config], name: str
) -> None:
    """Whatever else lies there under the names of stages."""
    folder = default_folder(configure())
    folder.mkdir(parents=True)
    mine = {folder / name: "stages: {}\n", folder / "report" / "thesis.txt": "mine"}
    (folder / name).write_text(mine[folder / name])
    with pytest.raises(UserError, match=rf"{name}: is no (file|page) of NeuronLens"):
        run(configure())
    (folder / "report").mkdir()
    (folder / "report" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is no \w+ of NeuronLens"):
        run(configure())
    assert {path: path.read_text() for path in folder.rglob("*") if path.is_file()} == mine


def test_an_audit_beside_a_pipeline_of_the_users_own_leaves_it_alone(
    workspace: Workspace, configure: Callable[..., Config]
) -> None:
    (workspace.root / "dvc.yaml").write_text("stages: {mine: {cmd: 'true'}}\n")
    for folder in (workspace.root, workspace.root / "apart"):
        folder.mkdir(exist_ok=True)
        (folder / "dvc.yaml").write_text("stages: {mine: {cmd: 'true'}}\n")
        assert outcomes(run_audit(configure(), folder, use_flow=False)) == ["computed"] * 5
        assert (folder / "dvc.yaml").read_text() == "stages: {mine: {cmd: 'true'}}\n"
        assert not (folder / "audit.yaml").exists()


def test_the_folder_of_all_audits_is_no_audit(workspace: Workspace, configure: Callable[..., Config]) -> None:
    folder = workspace.root / "audits"
    with pytest.raises(UserError, match=r"holds all audits\. Name one in it with --out, such as audits/NAME"):
        run_audit(configure(), folder, use_flow=False)
    assert not (folder / "prepare").exists()
