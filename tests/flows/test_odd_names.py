"""Concepts, columns and files under names that are ways out of a folder, markup, formulas or commands: every verb takes them as names."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run

from flows.cli import main
from neuronlens.artifact import read_json
from neuronlens.interventions.lens import Lens
from tasks.tracking.store import client_of
from tasks.versioning import Workspace
from tests.conftest import sentences
from tests.models import save_checkpoint

CONCEPTS = (
    "../../up",
    "/etc/passwd",
    "..",
    "a//b",
    "</script><script>alert(1)</script>",
    "=1+1|\"quoted\", 'twice'",
    "$(touch touched)\n\x1b[31m",
    "süß & 漢字 \N{RIGHT-TO-LEFT OVERRIDE}",
    ("long " * 400).strip(),
    "-1",
)
NAME = "${an} odd; #1"
FOLDER = f"audits/{NAME}"


@pytest.fixture(scope="module")
def root(workspace_at: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an audit of them, made without Prefect."""
    root = tmp_path_factory.mktemp("odd") / "work; space"
    workspace_at(root)
    names = dict(enumerate(CONCEPTS))
    label2id = {name: i for i, name in names.items()}
    for seed in range(2):
        save_checkpoint(root / f"model {seed}", "bert", seed, id2label=names, label2id=label2id)
    splits = ["fit"] * 6 + ["validation"] + ["test"] * 3
    with (root / "some data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["the, text", "{kind}", "split"])
        pairs = [(concept, split) for split in splits for concept in CONCEPTS]
        writer.writerows((text, *pair) for text, pair in zip(sentences(len(pairs)), pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for seed, folder in enumerate([FOLDER, "audits/the next"]):
            given = ["--checkpoint", f"model {seed}", "--dataset", "some data.csv", "--text", "the, text"]
            given += [
                "--label",
                "{kind}",
                "--set",
                "interventions.tau=2",
                "--set",
                "fit.saliency=mean_abs",
                "--set",
                "fit.rows=all",
            ]
            assert main(["audit", *given, "--set", "evaluate.bootstrap=100", "--out", folder, "--no-flow"]) == 0
    return root


@pytest.fixture(autouse=True)
def inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is done stays inside the workspace."""
    monkeypatch.chdir(root)
    yield
    assert [*root.parent.iterdir()] == [root]
    assert not [path for name in ("touched", "passwd", "up") for path in root.rglob(name)]


def noted(root: Path) -> Run:
    client = client_of(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`neuronlens.audit` = '{NAME}'")
    assert [run.info.status for run in found] == ["FINISHED"]
    return found[0]


def test_all_of_them_are_audited_and_noted(root: Path) -> None:
    document = read_json(Path(FOLDER, "report", "audit.json"))
    assert sorted(row["concept"] for row in document["base"]["concepts"]) == sorted(CONCEPTS)
    metrics = noted(root).data.metrics
    assert sum(name.startswith("base/accuracy/") for name in metrics) == len(CONCEPTS)


@pytest.mark.parametrize("concept", CONCEPTS, ids=[*map(str, range(len(CONCEPTS)))])
def test_each_can_be_asked_for(concept: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", FOLDER, "--concept", concept, "-o", "one.lens.safetensors"]) == 0
    assert Lens.load(Path("one.lens.safetensors")).concept == concept
    assert main(["neuron", FOLDER, "resid_post.2:3", "--mask", "--concept", concept]) == 0
    out = capfd.readouterr().out
    assert "\x1b[31m" not in out
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in out


@pytest.mark.parametrize("words", [["show"], ["gate"], ["lineage"], ["status"], ["report"], ["list"]])
def test_every_verb_shows_them(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *([] if words == ["list"] else [FOLDER])]) in (0, 4)
    out, err = capfd.readouterr()
    assert "\x1b[31m" not in out + err


def test_dvc_makes_a_stage_of_a_folder_that_is_called_so() -> None:
    """Neither a parameter of its own nor several words of a shell."""
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "config", "--local", "core.no_scm", "true"], check=True)
    shutil.rmtree(Path(FOLDER, "fit"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        [*dvc, "repro", "--no-run-cache", "--force", "--single-item", "fit"],
        cwd=FOLDER,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert f"neuronlens stage fit --out '{FOLDER}'" in run.stdout
    assert main(["status", FOLDER]) == 0
    assert Path(FOLDER, "fit", "manifest.json").is_file()


def test_they_are_compared(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", FOLDER, "audits/the next", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    for part in ("changes", "ranges"):
        assert {row["concept"] for row in document[part]} - {None} == {*CONCEPTS}
