"""params.yaml and dvc.yaml at the root: complete, and of one mind with the library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuronlens import methods
from neuronlens.example import PROMPT, Example
from neuronlens.params import load_config
from neuronlens.presets import PRESETS
from neuronlens.stages import PATHS, STAGES, Stage, run_stage
from tasks.pipeline import Pipeline, pipeline_text
from tests.conftest import ROOT

AUDIT = Path("audits/example")


def _spelt_out() -> str:
    """params.yaml without the marks that make a comment of what the preset sets."""
    return re.sub(r"^  # ( *\w+: )", r"  \1", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE)


def _keys(values: Mapping[str, Any]) -> set[str]:
    return {f"{name}.{key}" for name, part in values.items() if isinstance(part, dict) for key in part} | set(values)


def test_params_shows_every_key_at_the_value_it_has(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(_spelt_out())
    config = load_config(ROOT / "params.yaml")
    assert _keys(yaml.safe_load(_spelt_out())) == _keys(config.model_dump())
    assert load_config(tmp_path / "params.yaml") == config


def test_the_preset_in_params_sets_what_is_commented_out(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("preset: audited", "preset: official")
    (tmp_path / "params.yaml").write_text(text)
    config = load_config(tmp_path / "params.yaml").model_dump(mode="json")
    for section, values in PRESETS["official"].items():
        assert config[section] | values == config[section]


def test_params_names_the_embedded_example() -> None:
    config, example = load_config(ROOT / "params.yaml"), Example(Path("data/example"))
    assert Path(config.checkpoint.path) == example.language_models[-1]
    assert Path(config.dataset.path) == example.dataset
    assert Path(str(config.evaluate.auxiliary)) == example.auxiliary
    assert config.dataset.prompt == PROMPT


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml."""
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return stages


def test_dvc_has_the_stages_in_their_order(pipeline: dict[str, Any]) -> None:
    assert list(pipeline) == ["example", *STAGES]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_dvc_knows_everything_a_stage_depends_on(stage: Stage, pipeline: dict[str, Any]) -> None:
    known = pipeline[stage.name]
    params = [param for param in known["params"] if isinstance(param, str)]
    outside = {
        "dataset": "${dataset.path}",
        "checkpoint": "${checkpoint.path}",
        "auxiliary": "data/example/auxiliary.txt",
    }
    assert known["outs"] == [str(AUDIT / stage.name)]
    assert known["cmd"] == f"neuronlens stage {stage.name} --out {AUDIT}"
    given = {
        outside[name] for name in stage.outside if name != "questions"
    }  # the example has none: no file to depend on
    assert {str(AUDIT / need) for need in stage.needs} | given == set(known.get("deps", ()))
    if "questions" in stage.outside:
        assert {"evaluate", "evaluate.questions"} & set(params)
    for param in stage.params:
        assert param in params or param.partition(".")[0] in params
    governed = {section for values in PRESETS.values() for section in values} | {"preset"}
    assert ("preset" in params) == any(param.partition(".")[0] in governed for param in stage.params)
    assert known["params"][-1] == {"neuronlens/methods.py": [stage.name.upper()]}
    assert getattr(methods, stage.name.upper()) == stage.method


def test_an_audits_own_pipeline_is_made_after_the_one_at_the_root(tmp_path: Path) -> None:
    """The same stages, the same metrics and plots; but parameters and identities stand for paths."""
    root = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    config = load_config(ROOT / "params.yaml")
    own = yaml.safe_load(pipeline_text(config, Pipeline(tmp_path, tmp_path / AUDIT, f"{AUDIT}/dvc.yaml")))
    assert list(own["stages"]) == list(STAGES)
    for name, stage in own["stages"].items():
        theirs = root["stages"][name]
        assert (stage["cmd"], stage["outs"], stage["wdir"]) == (theirs["cmd"], theirs["outs"], "../..")
        assert set(stage.get("deps", ())) == {dep for dep in theirs["deps"] if dep.startswith(str(AUDIT))}
        (params,) = stage["params"]
        (keys,) = params.values()
        assert {f"audited.of.{given}" for given in STAGES[name].outside} <= set(keys)
        assert f"audited.methods.{name}" in keys
        assert not [key for key in keys if key.rpartition(".")[2] in PATHS and not key.startswith("audited.")]
        for param in STAGES[name].params:
            assert any(key == param or key.startswith(f"{param}.") or param.startswith(f"{key}.") for key in keys)
    assert f"{AUDIT}/{own['metrics'][0]}" in root["metrics"]
    moved = yaml.safe_load(yaml.safe_dump(own["plots"]).replace("report/", f"{AUDIT}/report/"))
    assert moved == root["plots"]


def test_dvc_runs_a_stage_and_then_has_nothing_to_do(originals: Path, here: Path) -> None:
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, here)
    (here / ".dvc").mkdir()
    (here / ".dvc/config").write_text(
        (ROOT / ".dvc/config").read_text().replace("[core]\n", "[core]\n    no_scm = true\n")
    )
    (here / "neuronlens").mkdir()
    shutil.copy(ROOT / "neuronlens/methods.py", here / "neuronlens")
    config = load_config(here / "params.yaml")
    shutil.copytree(originals / "gpt2", config.checkpoint.path)
    for source, target in (("data.csv", "data/example/data.csv"), ("aux.txt", str(config.evaluate.auxiliary))):
        shutil.copy(originals / source, target)
    (here / "params.yaml").write_text((here / "params.yaml").read_text().replace("dataset.parquet", "data.csv"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def repro() -> str:
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", "prepare"]
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "prepare   computed" in repro()
    assert run_stage("prepare", load_config(here / "params.yaml"), AUDIT).outcome == "current"
    (here / AUDIT / "prepare/timing.json").write_text("{}")
    assert "Stage 'prepare' didn't change, skipping" in repro()


def test_dvc_sees_the_pipelines_of_audits_in_a_clone(tmp_path: Path) -> None:
    """DVC reads patterns of .gitignore otherwise than git does."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for name in (".gitignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with Repo(str(tmp_path)) as repo:
        ignored = {name: repo.scm.is_ignored(str(tmp_path / "audits/one" / name)) for name in ("dvc.yaml", "dvc.lock")}
        ignored |= {name: repo.scm.is_ignored(str(tmp_path / "audits/one" / name) + "/") for name in STAGES}
    assert ignored == {"dvc.yaml": False, "dvc.lock": False} | dict.fromkeys(STAGES, True)
