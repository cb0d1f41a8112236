"""A registered model as a line of checkpoints, and what is noted of it, with a real MLflow server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import requests
import torch

from flows import services
from flows.cli import main
from neuronlens.artifact import read_json
from neuronlens.figures import drawings
from tasks import tracking
from tasks.audits import open_existing
from tasks.lines import Decision, Line
from tasks.versioning import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOBODY = "http://127.0.0.1:1"
WATCH = ["watch", "models:/topics", "--once", "--no-flow"]


@dataclass(frozen=True)
class Watched:
    """A workspace that has looked at a registered model once.

    Attributes:
        root: of the workspace.
        url: of the server.
        away: exit code and decisions of a look while runs could not be noted.
        code: exit code of the look after it.
    """

    root: Path
    url: str
    away: tuple[int, list[Decision]]
    code: int

    @property
    def decisions(self) -> list[Decision]:
        """Of the line."""
        return Line.of("models:/topics", self.root).decisions()

    @property
    def client(self) -> MlflowClient:
        """Of the server."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url)

    def runs(self, tag: str) -> list[Run]:
        """That have a tag of ours, the earliest first."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        found = self.client.search_runs(experiments, order_by=["attributes.start_time ASC"])
        return [run for run in found if f"neuronlens.{tag}" in run.data.tags]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it is started as `neuronlens up` starts it."""
    kind = replace(services._KINDS["mlflow"], port=0)
    service = services._start(tmp_path_factory.mktemp("server"), "mlflow", kind)
    yield service.url
    os.killpg(service.pid, signal.SIGKILL)  # asked politely, it waits for the connections that MLflow's client keeps
    psutil.Process(service.pid).wait()


def _register(server: str, originals: Path, here: Path) -> None:
    """`topics` with a version that lies in a folder here, and two that lie with the server: one that mlflow.transformers has logged, and
    one that is an artifact of a run.
    """
    import mlflow
    from mlflow import MlflowClient
    from transformers import AutoModelForCausalLM, AutoTokenizer

    client = MlflowClient(tracking_uri=server)
    client.create_registered_model("topics")
    local = client.create_run(client.create_experiment("local", artifact_location=(here / "runs").as_uri()))
    client.log_artifacts(local.info.run_id, str(originals / "gpt2"), "model")
    client.create_model_version("topics", f"{local.info.artifact_uri}/model", local.info.run_id)
    model = AutoModelForCausalLM.from_pretrained(originals / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(originals / "gpt2")
    remote = client.create_experiment("remote", artifact_location="mlflow-artifacts:/remote")
    _train(model)
    with mlflow.start_run(experiment_id=remote):
        parts = {"model": model, "tokenizer": tokenizer}
        mlflow.transformers.log_model(
            parts, name="model", task="text-generation", registered_model_name="topics", pip_requirements=[]
        )
    _train(model)
    model.save_pretrained(here / "third")
    tokenizer.save_pretrained(here / "third")
    run = client.create_run(remote)
    client.log_artifacts(run.info.run_id, str(here / "third"), "checkpoints/last")
    client.create_model_version("topics", f"runs:/{run.info.run_id}/checkpoints/last", run.info.run_id)


def _train(model: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)


@pytest.fixture(scope="module")
def watched(server: str, originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A workspace, as the current folder, that has looked at the model once."""
    root = Workspace.create(tmp_path_factory.mktemp("watching")).root
    shutil.copy(originals / "data.csv", root)
    (root / "params.yaml").write_text(
        "dataset: {path: data.csv}\n"
        "extract: {sites: [resid_post.last]}\n"
        "fit: {rows: all, saliency: mean_abs}\n"
        "interventions: {tau: 2.0, top: [0.3]}\n"
        "evaluate: {bootstrap: 100}\n"
        "gates: {accuracy: base_accuracy drop <= 1}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", server)
        _register(server, originals, tmp_path_factory.mktemp("registered"))
        patch.setenv("MLFLOW_REGISTRY_URI", server)
        patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        away = main(WATCH), Line.of("models:/topics", root).decisions()
        patch.setenv("MLFLOW_TRACKING_URI", server)
        patch.delenv("MLFLOW_REGISTRY_URI")
        yield Watched(root, server, away, main(WATCH))


def test_each_version_is_audited_once_and_held_against_the_one_before(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watched.code == 4, "nobody could judge the first by a change"
    found = watched.decisions[:3]
    assert [(one.checkpoint, one.outcome) for one in found] == [
        (f"version-{number}", "audited") for number in (1, 2, 3)
    ]
    assert [one.before for one in found] == [None, found[0].audit, found[1].audit]
    assert len({one.fingerprint for one in found}) == 3
    assert [one.gates[0]["verdict"] for one in found] == ["NOT APPLICABLE", "PASS", "PASS"]
    names = [
        read_json(watched.root / "audits" / str(one.audit) / "report/audit.json")["checkpoint"]["name"] for one in found
    ]
    assert names == ["model", "topics-version-2", "topics-version-3"]
    before = len(watched.runs("key"))
    assert main(WATCH) == 0
    assert capsys.readouterr().out == "nothing new since the last look\n"
    assert len(watched.runs("key")) == before == 3 + 2


def test_a_server_that_is_away_while_a_run_is_to_be_noted_loses_nothing(watched: Watched) -> None:
    """The look ended, and the next one went on from there: the audit was complete, and was decided on when it could be noted."""
    code, decisions = watched.away
    assert code == 3
    assert decisions == []


def test_audits_are_noted_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = watched.runs("audit")
    assert [run.data.tags["neuronlens.audit"] for run in runs] == [one.audit for one in watched.decisions[:3]]
    for run in runs:
        folder = watched.root / "audits" / run.data.tags["neuronlens.audit"]
        document = read_json(folder / "report/audit.json")
        assert run.info.status == "FINISHED"
        assert watched.client.get_experiment(run.info.experiment_id).name == document["dataset"]["name"]
        assert run.data.metrics["base/accuracy"] == pytest.approx(document["base"]["accuracy"], abs=5e-7)
        assert run.data.params["interventions.tau"] == "[2.0]"
        assert run.data.tags["neuronlens.fingerprint"] == document["checkpoint"]["fingerprint"]
        names = {entry.path for entry in watched.client.list_artifacts(run.info.run_id)}
        assert {"report.html", "summary.md", "audit.json", "results.json", "figures"} <= names
    (watched.root / ".dvc/tmp/neuronlens/noted.json").unlink()  # the server itself is asked
    again = tracking.record(open_existing(watched.root / "audits" / runs[0].data.tags["neuronlens.audit"]))
    assert again == tracking.Recorded(runs[0].info.run_id, watched.url, new=False)


def test_figures_of_an_audit_are_images_on_its_page(watched: Watched) -> None:
    """Asked for as MLflow's page does."""
    run = watched.runs("audit")[0]
    document = read_json(watched.root / "audits" / run.data.tags["neuronlens.audit"] / "report/audit.json")
    known = {f"figures/{name}": svg for name, svg in drawings(document).items()}
    assert {entry.path for entry in watched.client.list_artifacts(run.info.run_id, "figures")} == {*known}
    assert {name.partition("-")[0] for name in known} == {"figures/heatmap", "figures/effects", "figures/concepts"}
    for name, svg in known.items():
        asked = {"path": name, "run_uuid": run.info.run_id}
        given = requests.get(f"{watched.url}/get-artifact", params=asked, timeout=30)
        assert given.text == svg
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_comparisons_are_noted_once_beside_the_audits_that_they_are_of(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    audits = {run.data.tags["neuronlens.audit"]: run.info.run_id for run in watched.runs("audit")}
    runs = watched.runs("comparison")
    first, second, third = (str(one.audit) for one in watched.decisions[:3])
    assert [run.info.run_name for run in runs] == [f"{first} -> {second}", f"{second} -> {third}"]
    for run, (before, after) in zip(runs, [(first, second), (second, third)], strict=True):
        tags, metrics = run.data.tags, run.data.metrics
        assert (tags["neuronlens.before.run"], tags["neuronlens.after.run"]) == (audits[before], audits[after])
        document = read_json(watched.root / "comparisons" / f"{before}--{after}" / "comparison.json")
        for which, audit in zip(("before", "after"), document["audits"], strict=True):
            assert tags[f"neuronlens.{which}.fingerprint"] == audit["checkpoint"]["fingerprint"]
        changes = {(row["quantity"], row["method"], row["concept"]): row for row in document["changes"]}
        for name, key in (
            ("change/base_accuracy", ("base_accuracy", None, None)),
            ("change/sports/base_accuracy", ("base_accuracy", None, "sports")),
            (f"change/{document['sites'][0]}/tuned/selectivity", ("selectivity", "tuned", None)),
        ):
            found = [metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]]
            assert found == pytest.approx([changes[key][part] for part in ("value", "low", "high")])
        assert metrics["drift/max_wasserstein"] == max(row["max_wasserstein"] for row in document["drift"])
        names = {entry.path for entry in watched.client.list_artifacts(run.info.run_id)}
        assert names == {"comparison.json", "comparison.html", "figures"}
    (watched.root / ".dvc/tmp/neuronlens/noted.json").unlink(missing_ok=True)
    words = ["compare", f"audits/{first}", f"audits/{second}", "--json"]
    assert main(words) == 0
    assert len(watched.runs("comparison")) == 2
    capsys.readouterr()
    assert main([*words, "--transfer"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"], "what MLflow has to say is not printed amid it"
    (*_, moved) = watched.runs("comparison")
    assert moved.info.run_name == f"{first} -> {second} (transfer)"
    assert main([*words, "--transfer"]) == 0
    assert len(watched.runs("comparison")) == 3
    capsys.readouterr()


def test_a_version_that_is_no_checkpoint_is_told_once_and_the_look_goes_on(
    watched: Watched, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no weights"
    folder.mkdir()
    shutil.copy(originals / "gpt2" / "config.json", folder)
    (experiment,) = watched.client.search_experiments(filter_string="name = 'remote'")
    run = watched.client.create_run(experiment.experiment_id)
    watched.client.log_artifacts(run.info.run_id, str(folder), "model")
    for source in (f"runs:/{run.info.run_id}/model", f"runs:/{run.info.run_id}/gone"):
        watched.client.create_model_version("topics", source, run.info.run_id)
    assert main(WATCH) == 3
    told, gone = watched.decisions[3:]
    assert (told.checkpoint, told.error) == ("version-4", "there are no safetensors weights")
    assert gone.checkpoint == "version-5"
    assert gone.error is not None
    assert "\n" not in gone.error
    assert main(WATCH) == 0
    assert len(watched.decisions) == 5
    capsys.readouterr()


@pytest.mark.parametrize(
    ("uri", "name", "code", "told"),
    [(NOBODY, "topics", 3, f"MLflow store {NOBODY}: "), (None, "none", 2, "models:/none: no version of such a model")],
)
def test_what_cannot_be_had_is_one_line(
    uri: str | None,
    name: str,
    code: int,
    told: str,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or watched.url)
    assert main(["watch", f"models:/{name}", "--once", "--no-flow"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"neuronlens: {told}")
    assert err.count("\n") == 1
