"""The command line as its users meet it: exit codes, streams, and one line for every mistake."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows import engine
from flows.cli import main
from neuronlens.config import Config, config_schema
from neuronlens.params import load_config
from neuronlens.report.finished import SCHEMA_VERSION
from neuronlens.stages import STAGES, audit_id
from tests.conftest import ROOT
from tests.flows.command import as_options

PLAIN = "audit --checkpoint gpt2 --dataset data.csv"


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda here: (here / name).write_text(text)


def _rows(*labels: str) -> str:
    """A CSV with five rows of each label."""
    rows = [
        f"{word} {row},{label}" for row, word in enumerate(("bank", "atom", "vote", "law", "chip")) for label in labels
    ]
    return "\n".join(["text,label", *rows]) + "\n"


def _pickle(here: Path) -> None:
    (here / "gpt2/model.safetensors").rename(here / "gpt2/pytorch_model.bin")


MISTAKES: dict[str, tuple[str, Callable[[Path], object] | None, list[str]]] = {
    "no such data": ("audit --checkpoint gpt2 --dataset topics.csv", None, ["topics.csv: no such file", "Name a"]),
    "no such checkpoint": (
        "audit --checkpoint ./gpt3 --dataset data.csv",
        None,
        ["./gpt3: no such folder", "Name a checkpoint folder"],
    ),
    "no checkpoint": ("audit --dataset data.csv", None, ["checkpoint.path", "--checkpoint"]),
    "no data": ("audit --checkpoint gpt2", None, ["dataset.path", "--dataset"]),
    "unknown key": (
        f"{PLAIN} --params p.yaml",
        _write("p.yaml", "interventions:\n  taus: 2\n"),
        ["p.yaml:2: unknown key 'interventions.taus'", "Did you mean 'tau'?"],
    ),
    "unknown section": (
        PLAIN,
        _write("params.yaml", "seed: 0\nevaluat: {}\n"),
        ["params.yaml:2: unknown key 'evaluat'", "Did you mean 'evaluate'?"],
    ),
    "bad value": (
        f"{PLAIN} --params p.yaml",
        _write("p.yaml", "interventions:\n  top: 0.1\n  tau: -1\n"),
        ["p.yaml:3: interventions.tau", "greater than 0"],
    ),
    "no such params": (f"{PLAIN} --params q.yaml", None, ["q.yaml: no such file", "--params"]),
    "unknown preset": (f"{PLAIN} --set preset=oficial", None, ["--set preset=oficial", "Did you mean 'official'?"]),
    "no assignment": (f"{PLAIN} --set seed", None, ["--set seed", "section.key=value"]),
    "unknown key set": (f"{PLAIN} --set fit.row=all", None, ["--set fit.row=all", "Did you mean 'rows'?"]),
    "bad value set": (f"{PLAIN} --set seed=x", None, ["--set seed=x", "integer"]),
    "no text column": (
        f"{PLAIN} --text txt",
        None,
        ["data.csv: has no column 'txt'", "Did you mean 'text'?", "--text"],
    ),
    "no label column": (f"{PLAIN} --label lable", None, ["data.csv", "Did you mean 'label'?", "--label"]),
    "empty concept": (
        PLAIN,
        _write("data.csv", "text,label\na,x\nb,\n"),
        ["data.csv: row 2", "Label or remove the row"],
    ),
    "one concept": (PLAIN, _write("data.csv", _rows("law")), ["data.csv: holds one concept only ('law')", "add rows"]),
    "no such layer": (
        f"{PLAIN} --set extract.sites=resid_post.9",
        None,
        ["extract.sites: site 'resid_post.9'", "The model has 3 layers"],
    ),
    "pickled weights": (PLAIN, _pickle, ["gpt2: holds pickled weights only (pytorch_model.bin)", "safetensors"]),
    "labels collide": (
        PLAIN,
        _write("data.csv", _rows("zzalpha", "zzbeta")),
        ["dataset.labels: the labels ' zzalpha' and ' zzbeta' begin with the same token", "--set 'dataset.labels="],
    ),
    "no such class": (
        "audit --checkpoint bert --dataset data.csv",
        _write("data.csv", _rows("sports", "astrology")),
        ["bert/config.json: concept 'astrology' is no class of the model", "--set 'dataset.labels="],
    ),
    "no such questions": (f"{PLAIN} --set evaluate.questions=no.jsonl", None, ["evaluate.questions: no.jsonl", "Name"]),
    "a bad question": (
        f"{PLAIN} --set evaluate.questions=q.jsonl",
        _write("q.jsonl", '{"question": "?", "choices": ["a", "b"], "answer": 0}\n{"question": "?"}\n'),
        ["q.jsonl:2: lacks 'choices'", "It has: question"],
    ),
    "letters that are no tokens": (
        f"{PLAIN} --set evaluate.questions=q.jsonl",
        _write("q.jsonl", '{"question": "?", "choices": ["a", "b"], "answer": 0}\n'),
        ["evaluate.questions: the answer ' A' is no single token", "--set evaluate.questions=null"],
    ),
    "a classifier that generates": (
        "audit --checkpoint bert --dataset data.csv --set evaluate.scoring=generate",
        None,
        ["evaluate.scoring: a classifier generates no text", "--set evaluate.scoring=constrained"],
    ),
    "no such auxiliary text": (
        f"{PLAIN} --set evaluate.auxiliary=no.txt",
        None,
        ["evaluate.auxiliary: no.txt", "Name"],
    ),
    "out is a file": (f"{PLAIN} --out data.csv", None, ["data.csv: is a file", "--out"]),
    "out holds other files": (
        f"{PLAIN} --out mine",
        lambda here: (here / "mine/report").mkdir(parents=True),
        ["mine/report: is no artifact of NeuronLens", "--out"],
    ),
    "unknown verb": ("audti", None, ["'audti'", "Did you mean 'audit'?"]),
    "unknown option": ("audit --chekpoint gpt2", None, ["--chekpoint", "--checkpoint"]),
    "option without value": ("audit --out", None, ["--out", "requires an argument"]),
    "unknown stage": ("stage extrakt --out a", None, ["unknown stage 'extrakt'", "Did you mean 'extract'?"]),
}


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("door", ["", "--no-flow"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_place_and_the_cure(
    mistake: str, door: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, prepare, told = MISTAKES[mistake]
    if prepare is not None:
        prepare(here)
    monkeypatch.setitem(sys.modules, "flows.server", None)  # it is told before Prefect's engine would start
    before = _tree(here)
    assert main(shlex.split(command.replace("audit", f"audit {door}", 1))) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("neuronlens: ")
    assert err.count("\n") == 1
    for part in told:
        assert part in err
    assert _tree(here) == before


@pytest.mark.usefixtures("here")
def test_the_schema_is_printed_as_json_and_takes_params(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out) == config_schema()
    jsonschema.validate(yaml.safe_load((ROOT / "params.yaml").read_text()), json.loads(out))


def test_no_verb_shows_help_and_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "audit" in err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in ("audit", "schema", "stage"))]
)
def test_help_and_version_go_to_stdout(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert "neuronlens" in out
    assert err == ""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path, dict[str, Any]]]:
    """What the verb audit asks the engine to do, instead of doing it."""
    calls: list[tuple[Config, Path, dict[str, Any]]] = []

    def run_audit(config: Config, folder: Path, **options: Any) -> None:
        calls.append((config, folder, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run_audit", run_audit)
    return calls


def test_flags_stand_for_single_keys(here: Path, told: list[tuple[Config, Path, dict[str, Any]]]) -> None:
    (here / "params.yaml").write_text("seed: 3\ncheckpoint: {path: elsewhere, revision: v2}\ndataset: {label: topic}\n")
    columns = ["--text", "no", "--label", "C: x", "--split", "2024"]
    main(["audit", "--checkpoint", "gpt2", "--dataset", "data.csv", *columns, "--set", "fit.rows=all", "--force"])
    config, folder, options = told[0]
    assert config.checkpoint.path == "gpt2"
    assert config.checkpoint.revision is None  # v2 is one of the other checkpoint's
    assert (config.dataset.text, config.dataset.label, config.dataset.split) == ("no", "C: x", "2024")
    assert (config.seed, config.fit.rows) == (3, "all")
    assert folder == Path("audits") / audit_id(config)
    assert options == {"use_flow": True, "force": True, "create": True}


@pytest.mark.usefixtures("here")
def test_an_interrupted_run_exits_130_and_tells_how_to_resume(
    told: list[tuple[Config, Path, dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([*shlex.split(PLAIN), "--out", "my audit", "--force"]) == 130
    assert told[0][1] == Path("my audit")
    assert capfd.readouterr().err.endswith(f"To resume: neuronlens {PLAIN} --out 'my audit'\n")


@pytest.mark.usefixtures("here")
def test_a_bug_keeps_its_traceback_and_tells_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the bug")

    monkeypatch.setattr(engine, "run_audit", broken)
    assert main(shlex.split(PLAIN)) == 3
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: the bug" in err
    assert err.endswith(f"To resume: neuronlens {PLAIN}\n")


@pytest.mark.usefixtures("here")
def test_the_stages_the_table_and_the_report_are_printed(
    audited: Path, configure: Callable[..., Config], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*as_options(configure()), "--out", str(audited), "--no-flow"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[: len(STAGES)]] == [[name, "current:"] for name in STAGES]
    table = "\n".join(lines)
    for method in ("range masking", "whole neurons", "random neurons"):
        assert method in table
    assert lines[-1] == str(audited / "index.html")
    assert Path(lines[-1]).exists()


@pytest.mark.usefixtures("here")
def test_json_is_the_documents_bytes_and_nothing_else(
    audited: Path, configure: Callable[..., Config], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*as_options(configure()), "--out", str(audited), "--no-flow", "--json"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == (audited / "report/audit.json").read_bytes()
    assert json.loads(out)["schema_version"] == SCHEMA_VERSION
    assert b"prepare" in err


@pytest.mark.usefixtures("here")
def test_the_plan_names_the_way_and_the_cost_of_every_part(
    configure: Callable[..., Config], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [part for part in as_options(configure()) if part != "audit"]
    assert main(["plan", *options]) == 0
    text = capfd.readouterr().out
    decided, _, costs = text.partition("rows; ")
    assert [line.split()[:2] for line in decided.splitlines()[3:8]] == [[name, "computed"] for name in STAGES]
    lines = costs.splitlines()
    assert lines[1].startswith("a plain forward pass over them: ")
    parts = [line.split()[0] for line in lines[4:] if line and not line.startswith("activations")]
    assert parts[0] == "extract"
    assert parts[-1] == "all"
    assert {"fit", "evaluate"} <= {*parts}
    assert any("one vector a row, from the last block on" in line for line in lines)
    assert not (here / "audits").exists(), "a plan writes nothing"


def test_the_verb_stage_makes_what_the_audit_makes(
    audited: Path, originals: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", f"checkpoint.path={originals / 'gpt2'}", "--set", f"dataset.path={originals / 'data.csv'}"]
    options += ["--set", f"evaluate.auxiliary={originals / 'aux.txt'}"]
    assert main(["stage", "prepare", "--out", "mine", *options]) == 0
    assert capfd.readouterr().out.startswith("prepare   computed in ")
    assert (here / "mine/prepare/dataset.parquet").read_bytes() == (audited / "prepare/dataset.parquet").read_bytes()


def test_a_stage_before_its_inputs_says_so(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "fit", "--out", "mine"]) == 3
    assert "mine/prepare/manifest.json" in capfd.readouterr().err
    assert not (here / "mine").exists()


def test_load_config_reads_the_file_of_the_current_folder_only_when_none_is_named(
    here: Path, told: list[tuple[Config, Path, dict[str, Any]]]
) -> None:
    (here / "params.yaml").write_text("seed: 3\n")
    (here / "other.yaml").write_text("seed: 4\n")
    main([*shlex.split(PLAIN), "--params", "other.yaml"])
    assert told[0][0] == load_config(here / "other.yaml", ["checkpoint.path=gpt2", "dataset.path=data.csv"])
