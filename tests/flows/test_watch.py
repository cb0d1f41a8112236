"""Watching a line of checkpoints, in real processes where it matters."""

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
import torch

from flows import watch
from flows.cli import main
from neuronlens.artifact import read_json
from neuronlens.errors import ConfigError, UserError
from neuronlens.params import load_config
from neuronlens.stages import STAGES
from tasks.lines import Decision, Line
from tasks.versioning import Workspace
from tests import planted as plant
from tests.flows import secrets
from tests.flows.trained import aged, trained
from tests.hub import REPOSITORY, hub, sha

SCRAMBLED = "drum"


@pytest.fixture
def here(
    workspace_at: Callable[[Path], Workspace], originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A workspace as the current folder, with data and params.yaml, and a run that has written one checkpoint."""
    root = workspace_at(tmp_path / "ours").root
    for name in ("data.csv", "aux.txt"):
        shutil.copy(originals / name, root)
    (root / "params.yaml").write_text(
        "dataset: {path: data.csv}\n"
        "fit: {rows: all, saliency: mean_abs}\n"
        "interventions: {tau: 2.0, top: [0.3]}\n"
        "evaluate: {bootstrap: 100, auxiliary: aux.txt}\n"
        "gates:\n"
        "  accuracy: base_accuracy drop <= 0.9\n"
        "  known: base_accuracy >= 0\n"
    )
    (root / ".dvc" / "config.local").write_text(secrets.LOCAL)
    shutil.copytree(originals / "gpt2", root / "run" / "checkpoint-1")
    aged(root / "run" / "checkpoint-1")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(autouse=True)
def nothing_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever audits, DVC, MLflow, comparisons, records, pages and processes leave behind: no secret of the environment is in it."""
    for name, value in secrets.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    assert secrets.leaks(tmp_path) == []


def _look(root: Path, run: Path | None = None, **options: bool) -> list[Decision]:
    config, source = load_config(root / "params.yaml"), str(run or root / "run")
    return watch.watch_once(config, Line.of(source, root), watch.source_of(source), use_flow=False, **options)


def test_each_checkpoint_is_audited_once_and_held_against_the_one_before(here: Path) -> None:
    (first,) = _look(here)
    assert (first.checkpoint, first.outcome, first.before) == ("checkpoint-1", "audited", None)
    assert {gate["gate"]: gate["verdict"] for gate in first.gates} == {"accuracy": "NOT APPLICABLE", "known": "PASS"}
    assert watch.worst([first]) == 0
    assert _look(here) == []
    broken, _ = (trained(here / "run", step) for step in (2, 3))
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    aged(broken)
    (again, after) = _look(here)
    assert (again.checkpoint, again.outcome) == ("checkpoint-2", "error")
    assert again.error == f"model.safetensors has {len(whole) - 1:,} bytes of {len(whole):,}"
    assert (after.checkpoint, after.before) == ("checkpoint-3", first.audit)
    assert _look(here) == []  # one error record, and one audit
    weights.write_bytes(whole)
    aged(broken)
    (mended,) = _look(here)
    assert (mended.checkpoint, mended.before) == ("checkpoint-2", first.audit)
    comparison = read_json(here / "comparisons" / f"{mended.before}--{mended.audit}" / "comparison.json")
    assert [audit["audit"] for audit in comparison["audits"]] == [mended.before, mended.audit]
    assert len(Line.of(str(here / "run"), here).decisions()) == 4


def test_runs_in_folders_of_the_same_name_are_not_held_against_each_other(here: Path) -> None:
    (first,) = _look(here)
    other = here / "other" / "run"
    shutil.copytree(here / "run", other)
    trained(other, 2)
    shutil.rmtree(other / "checkpoint-1")
    (found,) = _look(here, other)
    assert (found.checkpoint, found.outcome, found.before) == ("checkpoint-2", "audited", None)
    trained(here / "run", 3)
    (after,) = _look(here)
    assert (after.checkpoint, after.before) == ("checkpoint-3", first.audit)
    line = watch.line_here("other/run")
    assert line.name.startswith("run-")
    assert line.decisions() == [found]
    assert main(["trend", "other/run"]) == main(["trend", line.name]) == main(["trend", "run"]) == 0


def test_the_same_bytes_are_not_audited_twice_and_raise_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = here / "params.yaml"
    params.write_text(params.read_text() + "  drift: drift.max_wasserstein <= 0\n  each: base_accuracy.* drop <= 0\n")
    shutil.copytree(here / "run" / "checkpoint-1", here / "run" / "checkpoint-2")
    words = ["watch", "run", "--once", "--no-flow"]
    assert main([*words, "--json"]) == 0
    first, again = json.loads(capsys.readouterr().out)
    assert (first["outcome"], again["outcome"]) == ("audited", "same")
    assert (again["audit"], again["before"], again["fingerprint"]) == (
        first["audit"],
        first["audit"],
        first["fingerprint"],
    )
    assert {gate["gate"]: (gate["verdict"], gate["value"]) for gate in again["gates"]} == {
        "accuracy": ("PASS", 0.0),
        "known": ("PASS", first["gates"][1]["value"]),
        "drift": ("PASS", 0.0),
        "each": ("PASS", 0.0),
    }
    assert len([*(here / "audits").glob("*/audit.yaml")]) == 1
    assert main(words) == 0
    assert capsys.readouterr().out == "nothing new since the last look\n"
    assert main(["trend", "run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert f"{first['audit']} (the same bytes)" in told[-1]
    assert "3 not applicable" in told[-2]


@pytest.fixture
def planted(workspace_at: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace as the current folder, with a model that knows every concept, saved twice, and then with one of them scrambled."""
    from transformers import GPT2LMHeadModel

    root = workspace_at(tmp_path / "ours").root
    with (root / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "split"), *plant.rows()])
    (root / "params.yaml").write_text(
        "dataset: {path: data.csv, prompt: '{text}', labels: {"
        + ", ".join(f"{concept}: {concept}" for concept in plant.CONCEPTS)
        + "}}\n"
        "extract: {sites: [resid_post.1]}\n"
        "fit: {rows: all, saliency: mean_abs}\n"
        "interventions: {tau: 2.0, top: [0.1], tuned: null}\n"
        "evaluate: {bootstrap: 100}\n"
        "gates: {every concept: base_accuracy.* drop <= 0.1}\n"
    )
    first = plant.save_planted(root / "run" / "checkpoint-1")
    aged(first)
    shutil.copytree(first, root / "run" / "checkpoint-2")
    model = GPT2LMHeadModel.from_pretrained(first)
    with torch.no_grad():
        model.lm_head.weight[plant.vocabulary().index(SCRAMBLED)] *= -1
    shutil.copytree(first, root / "run" / "checkpoint-3")
    model.save_pretrained(root / "run" / "checkpoint-3")
    aged(root / "run" / "checkpoint-3")
    monkeypatch.chdir(root)
    return root


def test_a_concept_that_was_scrambled_fails_its_gate_by_name_and_what_was_saved_again_raises_nothing(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (planted / "run" / "checkpoint-3").rename(planted / "later")
    words = ["watch", "run", "--once", "--no-flow", "--json"]
    assert main(words) == 4, "of the first there was nothing to judge"
    first, again = json.loads(capsys.readouterr().out)
    assert [gate["verdict"] for gate in (*first["gates"], *again["gates"])] == ["NOT APPLICABLE", "PASS"]
    told = "No gate counts: 1 gate does not apply. There is no audit before this one."
    assert told in (planted / "audits" / first["audit"] / "index.html").read_text()
    base = read_json(planted / "audits" / first["audit"] / "report" / "audit.json")["base"]
    assert base["accuracy"] == 1.0
    (planted / "later").rename(planted / "run" / "checkpoint-3")
    assert main(words) == 1
    (scrambled,) = json.loads(capsys.readouterr().out)
    (gate,) = scrambled["gates"]
    assert (gate["verdict"], gate["number"]) == ("FAIL", f"base_accuracy.{SCRAMBLED}")
    assert (gate["value"], gate["low"] > 0.1) == (1.0, True)
    assert main(["gate", f"audits/{scrambled['audit']}", "--since", f"audits/{first['audit']}"]) == 1
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith(f"✖ FAIL: The only gate fails: base_accuracy.{SCRAMBLED} drop 1.00 ")
    assert verdict.partition("FAIL: ")[2] in (planted / "audits" / scrambled["audit"] / "index.html").read_text()


def test_other_parameters_are_another_audit(here: Path) -> None:
    assert len(_look(here)) == 1
    params = here / "params.yaml"
    params.write_text(params.read_text().replace("tau: 2.0", "tau: 2.5"))
    (second,) = _look(here)
    assert second.outcome == "audited"
    assert _look(here) == []


def test_a_remote_that_is_away_ends_a_look_and_the_next_one_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["watch", "run", "--once", "--no-flow", "--set", "extract.sites=[resid_post.last]"]
    for remote, told in (
        ("https://127.0.0.1:1/store", "files failed to upload"),
        (str(here / "data.csv" / "store"), "cannot be reached"),
    ):
        assert main([*words, "--set", "remote.push=true", "--set", f"remote.url={remote}"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"neuronlens: remote {remote}: ")
        assert told in last
    line = Line.of("run", here)
    assert line.decisions() == []
    assert main(words) == 0
    assert [one.outcome for one in line.decisions()] == ["audited"]
    assert capsys.readouterr().out.count(" current: ") == len(STAGES)


def test_a_checkpoint_that_is_being_written_is_left_alone(here: Path) -> None:
    written = trained(here / "run", 2)
    (written / "model.safetensors").write_bytes(b"half")
    assert [one.checkpoint for one in _look(here)] == ["checkpoint-1"]


def test_the_revisions_of_a_hub_repository_are_audited_once(here: Path, tmp_path: Path) -> None:
    newer = trained(here / "run", 2)
    look = "import sys; from flows.cli import main; sys.exit(main(sys.argv[1:]) or main(sys.argv[1:]))"
    words = ["watch", REPOSITORY, "--once", "--no-flow", "--set", "extract.sites=[resid_post.last]"]
    with hub([here / "run" / "checkpoint-1", newer]) as address:
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", look, *words]
        done = subprocess.run(command, env=_environment() | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = Line.of(REPOSITORY, here).decisions()
    assert [first.checkpoint, second.checkpoint] == [sha(1)[:8], sha(2)[:8]]
    assert (first.outcome, second.outcome, second.before) == ("audited", "audited", first.audit)
    assert first.fingerprint != second.fingerprint
    assert done.stdout.splitlines()[-1] == "nothing new since the last look"


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["watch", "nowhere", "--once"], "nowhere: no such folder"),
        (["watch", "run", "--cron", "61 * * * *"], "--cron: '61 * * * *' is no cron expression"),
        (["watch", "run", "--cron", "0 0 30 2 *"], "--cron: "),
        (["watch", "run", "--every", "soon"], "--every: 'soon' is no time"),
        (["watch", "run", "--every", "1h", "--cron", "0 3 * * *"], "--every and --cron: say the same twice"),
        (["watch", "models:/none", "--once"], "models:/none: no MLflow registry is named"),
        (["watch", "run", "--once", "--set", "gates.mine='selectivty >= 0'"], "Did you mean 'selectivity'?"),
    ],
)
def test_what_cannot_be_watched_is_one_line(
    words: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([*words, "--no-flow"]) in (2, 3)
    output = capsys.readouterr()
    assert told in output.err + output.out
    assert "Traceback" not in output.err


def test_looks_are_as_far_apart_as_asked() -> None:
    assert 0 < watch.times("90s", None)() <= 90
    assert 0 < watch.times(None, None)() <= 600
    assert 0 < watch.times(None, "0 3 * * *")() <= 86_400
    with pytest.raises(ConfigError):
        watch.times("0s", None)


def test_a_line_is_watched_by_one_process(here: Path) -> None:
    with Line.of(str(here / "run"), here).watched(), pytest.raises(UserError, match="another process"):
        _look(here)
