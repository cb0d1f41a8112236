"""Audits of a workspace: versioned, resumed, shared, and traced back. Without Prefect, which has tests of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from flows import engine
from flows.engine import default_folder, run_audit
from neuronlens.config import Config
from neuronlens.errors import ConfigError, NeuronLensError, UserError
from neuronlens.stages import STAGES, Outcome
from tasks import tracking
from tasks.audits import foresee, open_existing
from tasks.lineage import lineage
from tasks.versioning import Workspace
from tests.flows.results import files, outcomes
from tests.forked import dvc

ALL = list(STAGES)


@pytest.fixture
def workspace(workspace_at: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty one, as the current folder."""
    found = workspace_at(tmp_path / "ours")
    monkeypatch.chdir(found.root)
    return found


@pytest.fixture(scope="module")
def done(configure: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one complete audit; tests copy it."""
    root = tmp_path_factory.mktemp("done") / "ours"
    Workspace.create(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_audit(configure(), default_folder(configure()), use_flow=False)
    return root


@pytest.fixture
def ours(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A copy of the workspace with one audit, as the current folder."""
    shutil.copytree(done, tmp_path / "ours")
    monkeypatch.chdir(tmp_path / "ours")
    yield Workspace(tmp_path / "ours")


def run(config: Config) -> list[Outcome]:
    """Audit into the workspace's own place."""
    return run_audit(config, default_folder(config), use_flow=False)


def test_an_audit_is_recorded_and_then_everybody_has_nothing_to_do(
    workspace: Workspace, audited: Path, configure: Callable[..., Config]
) -> None:
    folder = default_folder(configure())
    assert outcomes(foresee(configure(), folder)) == ["computed"] * 5
    assert not folder.exists(), "looking writes nothing"
    assert outcomes(run(configure())) == ["computed"] * 5
    assert files(folder) == files(audited), "the bytes do not depend on who keeps them"
    assert outcomes(foresee(configure(), folder)) == ["current"] * 5
    assert outcomes(run(configure())) == ["current"] * 5
    dvc(workspace.root, "config", "--local", "core.no_scm", "true")
    assert "up to date" in dvc(workspace.root, "status")
    pipeline = f"{folder}/dvc.yaml"
    assert dvc(workspace.root, "repro", pipeline).count("didn't change") == 5
    assert "extract" in dvc(workspace.root, "dag", pipeline)
    assert "selectivity" in dvc(workspace.root, "metrics", "show")
    assert "html" in dvc(workspace.root, "plots", "show")


def test_dvc_repro_alone_makes_the_same_and_then_the_flow_has_nothing_to_do(
    ours: Workspace, audited: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = default_folder(configure())
    for name in STAGES:
        shutil.rmtree(folder / name)
    shutil.rmtree(ours.root / ".dvc/cache")
    (folder / "dvc.lock").unlink()
    dvc(ours.root, "config", "--local", "core.no_scm", "true")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # other numbers of threads round otherwise
    dvc(ours.root, "repro", f"{folder}/dvc.yaml")
    assert files(folder) == files(audited)
    assert outcomes(run(configure())) == ["current"] * 5


def test_a_parameter_of_the_fit_leaves_extraction_alone_and_the_plan_says_so(
    ours: Workspace, configure: Callable[..., Config]
) -> None:
    other = configure("interventions.tau=2.5")
    expected = ["current", "current", "computed", "computed", "computed"]
    seen = foresee(other, default_folder(other))
    assert outcomes(seen) == expected
    assert [made.reason for made in seen[2:]] == [
        "interventions.tau [2.0] -> [2.5]",
        "follows fit",
        "follows evaluate, fit",
    ]
    assert outcomes(run(other)) == expected
    back = run(configure())
    assert outcomes(back) == ["current", "current", "restored", "restored", "restored"]
    assert "restored from the run-cache" in back[2].reason


def test_one_bit_of_the_weights_is_another_checkpoint(
    ours: Workspace, originals: Path, configure: Callable[..., Config]
) -> None:
    shutil.copytree(originals / "gpt2", ours.root / "gpt2")
    same = configure(f"checkpoint.path={ours.root / 'gpt2'}")
    assert outcomes(run(same)) == ["current"] * 5, "where a checkpoint lies makes no difference"
    weights = ours.root / "gpt2/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert default_folder(same) != default_folder(configure())
    assert outcomes(run(same)) == ["computed"] * 5
    assert outcomes(run(configure())) == ["current"] * 5


def test_a_checkpoint_that_was_replaced_is_not_recorded_as_the_old_one(
    workspace: Workspace, originals: Path, configure: Callable[..., Config]
) -> None:
    shutil.copytree(originals / "gpt2", workspace.root / "gpt2")
    config = configure(f"checkpoint.path={workspace.root / 'gpt2'}")
    folder = default_folder(config)
    run(config)
    shutil.copy(originals / "data.csv", workspace.root / "gpt2/vocab.txt")
    with pytest.raises(ConfigError, match=r"audit\.yaml: the checkpoint is not the one.*neuronlens audit --params"):
        engine.run_one("extract", None, folder)


def test_a_team_mate_computes_nothing(
    ours: Workspace, tmp_path: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What git holds is copied, the rest comes from the remote."""
    folder = default_folder(configure())
    assert engine.exchange("push", None, str(tmp_path / "remote")) > 0
    theirs = tmp_path / "theirs"
    for name in (".dvc/config", ".dvcignore", *(f"{folder}/{name}" for name in ("audit.yaml", "dvc.yaml", "dvc.lock"))):
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours.root / name, theirs / name)
    monkeypatch.chdir(theirs)
    assert engine.exchange("pull", [folder], str(tmp_path / "remote")) > 0
    assert files(folder) == files(ours.root / folder)
    assert outcomes(run(configure())) == ["current"] * 5


def test_a_team_mate_with_nothing_but_the_remote_computes_nothing(
    ours: Workspace, tmp_path: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No dvc.lock, and the remote is asked by the audit itself."""
    engine.exchange("push", None, str(tmp_path / "remote"))
    theirs = Workspace.create(tmp_path / "theirs")
    monkeypatch.chdir(theirs.root)
    found = run(configure(f"remote.url={tmp_path / 'remote'}"))
    assert outcomes(found) == ["restored"] * 5
    assert all("restored from remote" in outcome.reason for outcome in found)
    assert files(default_folder(configure())) == files(ours.root / default_folder(configure()))


def test_a_remote_that_cannot_be_reached_costs_nothing_but_a_word(
    workspace: Workspace, tmp_path: Path, configure: Callable[..., Config]
) -> None:
    (tmp_path / "file").write_text("no folder")
    found = run(configure(f"remote.url={tmp_path / 'file' / 'remote'}"))
    assert outcomes(found) == ["computed"] * 5
    with pytest.raises(UserError, match=r"remote .*/file/remote: cannot be reached.*what is computed is kept"):
        engine.exchange("push", None, str(tmp_path / "file" / "remote"))
    with pytest.raises(UserError, match="no remote is configured"):
        engine.exchange("push", None, None)
    with pytest.raises(UserError, match="no remote 'elsewhere'"):
        engine.exchange("push", None, "elsewhere")


def test_what_was_computed_before_it_could_be_recorded_is_not_computed_again(
    ours: Workspace, configure: Callable[..., Config]
) -> None:
    folder = default_folder(configure())
    (folder / "dvc.lock").unlink()
    shutil.rmtree(ours.root / ".dvc/cache")
    found = run(configure())
    assert outcomes(found) == ["current"] * 5
    assert {outcome.reason for outcome in found} == {"computed before, recorded now"}


def test_an_artifact_left_half_by_a_killed_restore_comes_back(
    ours: Workspace, audited: Path, configure: Callable[..., Config]
) -> None:
    folder = default_folder(configure())
    (folder / "extract/manifest.json").unlink()
    found = run(configure())
    assert found[1].outcome == "restored"
    assert files(folder) == files(audited)


def test_the_roots_pipeline_is_not_recorded_with_other_parameters(
    workspace: Workspace, configure: Callable[..., Config]
) -> None:
    stages = {"report": {"cmd": "make", "outs": ["audits/mine/report"]}}
    (workspace.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (workspace.root / "params.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"audits/mine: is made by dvc\.yaml from params\.yaml.*drop --out"):
        run_audit(configure(), Path("audits/mine"), use_flow=False)


def test_the_state_of_all_audits_is_told(ours: Workspace, configure: Callable[..., Config]) -> None:
    folder = default_folder(configure())
    found = engine.state_of_audits()
    assert {path.resolve(): outcomes(made) for path, made in found.items()} == {folder.resolve(): ["current"] * 5}
    shutil.rmtree(folder / "report")
    (made,) = engine.state_of_audits([folder]).values()
    assert (made[-1].outcome, made[-1].reason) == ("restored", "its files are gone; the run-cache has it")


def test_a_state_is_noted_once(ours: Workspace, configure: Callable[..., Config]) -> None:
    folder = default_folder(configure())
    audit = open_existing(folder)
    first = tracking.find(audit)
    assert first is not None
    assert tracking.record(audit) == first
    run(configure("interventions.tau=2.5"))
    second = tracking.find(open_existing(folder))
    assert second is not None
    assert second.run != first.run
    run(configure())
    assert tracking.find(open_existing(folder)) == first


def test_a_note_holds_parameters_numbers_files_and_where_it_all_came_from(
    ours: Workspace, configure: Callable[..., Config]
) -> None:
    from mlflow import MlflowClient

    folder = default_folder(configure())
    audit = open_existing(folder)
    noted = tracking.find(audit)
    assert noted is not None
    client = MlflowClient(tracking_uri=noted.uri)
    found = client.get_run(noted.run)
    document = json.loads((folder / "report/audit.json").read_text())
    assert client.get_experiment(found.info.experiment_id).name == document["dataset"]["name"]
    assert found.info.run_name == folder.name
    assert found.data.params["interventions.tau"] == "[2.0]"
    numbers = json.loads((folder / "report/metrics.json").read_text())
    assert found.data.metrics.items() >= {"base/accuracy": numbers["base/accuracy"]}.items()
    assert any(name.endswith("/selectivity") and "sports" in name for name in found.data.metrics)
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    assert found.data.tags[f"dvc.{folder}/report"] == lock["report"]["outs"][0]["md5"]
    digests = {given.dataset.name: given.dataset.digest for given in found.inputs.dataset_inputs}
    assert digests[document["checkpoint"]["name"]] == document["checkpoint"]["fingerprint"][:36]
    names = {entry.path for entry in client.list_artifacts(noted.run)}
    assert {"report.html", "summary.md", "audit.json", "results.json"} <= names


def test_a_store_of_another_version_is_told_and_the_audit_is_kept(
    ours: Workspace, configure: Callable[..., Config]
) -> None:
    with contextlib.closing(sqlite3.connect(ours.root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(
        NeuronLensError, match=r"mlflow\.db.*Another version of MLflow wrote it.*complete and kept.*same command again"
    ):
        run(configure("interventions.tau=2.5"))
    other = configure("interventions.tau=2.5")
    assert outcomes(foresee(other, default_folder(other))) == ["current"] * 5


def test_what_opens_a_remote_is_written_nowhere(
    ours: Workspace, configure: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    remote = "https://somebody:hunter2@127.0.0.1:1/store?sig=hunter3"
    caplog.set_level(logging.INFO)
    found = run(configure("interventions.tau=2.5", f"remote.url={remote}"))
    assert "remote https://***@127.0.0.1:1/store?sig=*** cannot be asked" in found[2].reason
    with pytest.raises(UserError) as told:
        engine.exchange("push", None, remote)
    assert "hunter" not in str(told.value) + caplog.text
    cache = ours.root / ".dvc/cache"
    for path in ours.root.rglob("*"):
        if path.is_file() and not path.is_relative_to(cache):
            assert b"hunter" not in path.read_bytes(), path


def test_the_chain_from_report_to_weights_holds_until_something_is_touched(
    ours: Workspace, configure: Callable[..., Config]
) -> None:
    folder = default_folder(configure())
    links = {link.name: link for link in lineage(open_existing(folder))}
    assert [*links] == [
        "report",
        "evaluate",
        "fit",
        "extract",
        "prepare",
        "checkpoint",
        "dataset",
        "auxiliary",
        "mlflow",
    ]
    assert all(link.holds for link in links.values())
    config = configure(f"checkpoint.path={ours.root / 'gone'}")
    unchecked = {link.name for link in lineage(replace(open_existing(folder), config=config)) if link.holds is None}
    assert unchecked == {"checkpoint"}, "what is not here is not called right"
    file = folder / "fit/ranges.parquet"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data + b"\0")
    broken = {link.name for link in lineage(open_existing(folder)) if link.holds is False}
    assert broken == {"fit"}


def test_git_holds_the_pipelines_and_dvc_tells_what_differs_between_commits(
    workspace: Workspace, configure: Callable[..., Config]
) -> None:
    folder = default_folder(configure())

    def git(*words: str) -> str:
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", *who, *words], cwd=workspace.root, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    run(configure())
    git("add", ".")
    held = {".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "audits/.gitignore"}
    own = {f"{folder}/{name}" for name in ("audit.yaml", "dvc.yaml", "dvc.lock")}
    assert {*git("diff", "--cached", "--name-only").split()} == held | own
    git("commit", "--quiet", "--message", "one")
    run(configure("interventions.tau=2.5"))
    assert f"{folder}/dvc.lock" in git("diff", "--name-only")
    changed = json.loads(dvc(workspace.root, "params", "diff", "--json"))
    assert changed == {f"{folder}/audit.yaml": {"interventions.tau": {"old": "[2.0]", "new": "[2.5]"}}}
    told = json.loads(dvc(workspace.root, "metrics", "diff", "--json"))
    assert {*told} == {f"{folder}/report/metrics.json"}
    assert any("selectivity" in name for name in told[f"{folder}/report/metrics.json"])
    git("commit", "--quiet", "--all", "--message", "other")
    assert "up to date" in dvc(workspace.root, "status")
    noted = tracking.find(open_existing(folder))
    assert noted is not None
    from mlflow import MlflowClient

    tags = MlflowClient(tracking_uri=noted.uri).get_run(noted.run).data.tags
    assert tags["git.commit"] == git("rev-parse", "HEAD~1").strip() + "+"


def test_a_folder_without_an_audit_is_told(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="holds no audit"):
        open_existing(workspace.root)
