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

from neuronlens.config import PRESETS
from neuronlens.example import PROMPT, Example
from neuronlens.params import load_config
from neuronlens.stages import STAGES, run_stage
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
def test_dvc_knows_everything_a_stage_depends_on(stage: Any, pipeline: dict[str, Any]) -> None:
    known = pipeline[stage.name]
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
    assert {str(AUDIT / need) for need in stage.needs} | given < set(known["deps"])
    if "questions" in stage.outside:
        assert {"evaluate", "evaluate.questions"} & set(known["params"])
    for param in stage.params:
        assert param in known["params"] or param.partition(".")[0] in known["params"]
    governed = {section for values in PRESETS.values() for section in values} | {"preset"}
    assert ("preset" in known["params"]) == any(param.partition(".")[0] in governed for param in stage.params)


def test_dvc_runs_a_stage_and_then_has_nothing_to_do(originals: Path, here: Path) -> None:
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, here)
    (here / ".dvc").mkdir()
    (here / ".dvc/config").write_text((ROOT / ".dvc/config").read_text() + "    no_scm = true\n")
    (here / "neuronlens").mkdir()
    shutil.copy(ROOT / "neuronlens/stages.py", here / "neuronlens")
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
