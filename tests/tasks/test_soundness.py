"""What is reused is the right thing: a change runs again the stages that depend on it, and no other.

By manifests alone, and as DVC has it. What the stages compute costs nothing here, but for one test that runs them as they are.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from neuronlens import artifact
from neuronlens import config as configuration
from neuronlens.config import Config
from neuronlens.errors import InputsChangedError
from neuronlens.pages.drawing import Figure
from neuronlens.params import load_config
from neuronlens.parts import Parts
from neuronlens.stages import (
    PATHS,
    STAGES,
    Stage,
    compute_stage,
    flat,
    run_stage,
    stage_inputs,
    stage_params,
    why_not_current,
)
from tasks.audits import AUDITS, Audit, bring_up_to_date, foresee
from tasks.pipeline import describe, written_by
from tasks.versioning import Workspace
from tests import autoencoders
from tests.conftest import labelled, sentences
from tests.models import random_model, tokenizer
from tests.tasks.dependencies import INPUTS, PARAMETERS, UNKEYED, flip, leaves, named, with_followers


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two and more shards with an autoencoder, labelled text, ordinary text, questions."""
    folder = tmp_path_factory.mktemp("inputs")
    random_model("gpt2").save_pretrained(folder / "gpt2", max_shard_size="20KB")
    tokenizer("gpt2").save_pretrained(folder / "gpt2")
    assert len([*(folder / "gpt2").glob("*.safetensors")]) > 2
    autoencoders.write(folder / "sae", "standard", width=16)
    rows = labelled(("finance", "health"), fit=4, validation=2, test=2)
    with (folder / "topics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        writer.writerows(zip(rows.text, rows.concept, rows.split, strict=True))
    (folder / "ordinary.txt").write_text("\n".join(sentences(4, seed=9)))
    asked = {"question": "the bank", "choices": ["a", "b"], "answer": 0}
    (folder / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    return folder


def settings(inputs: Path, **other: Any) -> Config:
    """A configuration on these inputs, of which single values may be others."""
    paths = {
        "checkpoint.path": str(inputs / "gpt2"),
        "checkpoint.sae": {"resid_post.1": str(inputs / "sae")},
        "dataset.path": str(inputs / "topics.csv"),
        "evaluate.auxiliary": str(inputs / "ordinary.txt"),
        "evaluate.questions": str(inputs / "questions.jsonl"),
    }
    return load_config(None, [f"{name}={json.dumps(value)}" for name, value in (paths | other).items()])


def other(inputs: Path, name: str, value: Any) -> Config:
    """The configuration with one other parameter. (A preset sets more; what it sets may be spelt out, too.)"""
    if name == "preset":
        return settings(inputs).model_copy(update={name: value})
    return settings(inputs, **{name: value})


def opened(config: Config, folder: Path) -> Audit:
    """`tasks.audits.open_audit`, where nothing is refused: the questions here are none that this checkpoint could be asked."""
    root = folder.parents[1]
    return Audit(config, folder, Workspace(root), describe(config, folder, root))


def cheap(stage: Stage, config: Config, inputs: Mapping[str, Path], out: Path, parts: Parts) -> dict[str, object]:
    """In the place of `Stage.run`: what decides about a stage is what it writes."""
    before = [artifact.content_hash(folder) for folder in inputs.values()]
    (out / "made.json").write_text(json.dumps([before, stage_params(stage, config), config.model_dump(mode="json")]))
    return {}


@pytest.fixture(scope="module")
def plain(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit that DVC does not know."""
    folder = tmp_path_factory.mktemp("plain") / "audit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "run", cheap)
        for name in STAGES:
            run_stage(name, settings(inputs), folder)
    return folder


@pytest.fixture(scope="module")
def versioned(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of a workspace."""
    folder = Workspace.create(tmp_path_factory.mktemp("versioned")).root / AUDITS / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "run", cheap)
        audit = opened(settings(inputs), folder)
        for name in STAGES:
            bring_up_to_date(audit, name)
    return folder


def by_manifests(config: Config, audit: Path) -> set[str]:
    """The stages that differ in what they themselves depend on."""
    return {
        name
        for name, stage in STAGES.items()
        if why_not_current(stage, stage_inputs(stage, config, audit), stage_params(stage, config), audit / name)
    }


def by_dvc(config: Config, folder: Path, before: Mapping[str, Any]) -> set[str]:
    """The stages of which DVC is told other keys or values than before."""
    now = told(config, folder)
    return {name for name in STAGES if now[name] != before[name]}


def told(config: Config, folder: Path) -> dict[str, Any]:
    """Stage -> its entry in dvc.yaml, and the values of the keys there."""
    (_, pipeline), (_, params) = written_by(config, folder, folder.parents[1]).items()
    found = {}
    for name, entry in pipeline["stages"].items():
        ((_, keys),) = entry["params"][0].items()
        values = {}
        for key in keys:
            value = params
            for part in key.split("."):
                value = value[part]
            values[key] = value
        found[name] = [entry, values]
    return found


def foreseen(config: Config, folder: Path) -> set[str]:
    return {made.stage for made in foresee(config, folder) if made.outcome != "current"}


def test_the_table_has_each_parameter_and_no_other() -> None:
    assert [*PARAMETERS] == [name for name, _ in leaves()]


def test_a_parameter_decides_about_the_stages_in_its_row_alone(inputs: Path, plain: Path, versioned: Path) -> None:
    before, wrong = told(settings(inputs), versioned), {}
    for name, (value, initials) in PARAMETERS.items():
        if name.rpartition(".")[2] in PATHS:
            continue
        config = other(inputs, name, value)
        assert config != settings(inputs), name
        found = by_manifests(config, plain), by_dvc(config, versioned, before)
        if found != (named(initials), named(initials)):
            wrong[name] = found
    assert wrong == {}


def test_what_is_foreseen_is_what_is_done(
    inputs: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the other tests need not do it."""
    monkeypatch.setattr(Stage, "run", cheap)
    for name, (value, initials) in PARAMETERS.items():
        if name.rpartition(".")[2] in PATHS:
            continue
        audit = shutil.copytree(plain, tmp_path / name)
        config = other(inputs, name, value)
        expected = with_followers(named(initials))
        assert foreseen(config, audit) == expected, name
        assert {stage for stage in STAGES if run_stage(stage, config, audit).outcome == "computed"} == expected, name
        assert foreseen(config, audit) == set()


@pytest.mark.parametrize("name", ["interventions.top", "gates"])
def test_dvc_foresees_what_it_is_told_and_does_it(
    name: str, inputs: Path, versioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "run", cheap)
    folder = shutil.copytree(versioned.parents[1], tmp_path / "ours") / AUDITS / "one"
    value, initials = PARAMETERS[name]
    config, expected = settings(inputs, **{name: value}), with_followers(named(initials))
    assert foreseen(config, folder) == expected
    audit = opened(config, folder)
    assert {stage for stage in STAGES if bring_up_to_date(audit, stage).outcome == "computed"} == expected
    assert foreseen(config, folder) == set()


@pytest.mark.parametrize("name", INPUTS)
def test_what_comes_from_outside_decides_about_the_stages_that_read_it(
    name: str, inputs: Path, plain: Path, versioned: Path, tmp_path: Path
) -> None:
    change, initials = INPUTS[name]
    own = shutil.copytree(inputs, tmp_path / "own")
    before = told(settings(own), versioned)
    change(own)
    assert by_manifests(settings(own), plain) == named(initials)
    assert by_dvc(settings(own), versioned, before) == named(initials)


@pytest.mark.parametrize("name", STAGES)
def test_another_method_decides_about_its_stage(
    name: str, inputs: Path, plain: Path, versioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = told(settings(inputs), versioned)
    # monkeypatch asks for a mutable mapping: STAGES is a dict that calls itself a Mapping, so that nobody else changes it
    monkeypatch.setitem(STAGES, name, replace(STAGES[name], method=STAGES[name].method + 1))  # type: ignore[arg-type]
    assert by_manifests(settings(inputs), plain) == {name}
    assert by_dvc(settings(inputs), versioned, before) == {name}


def _reversed_copy(own: Path) -> Config:
    """The files of the checkpoint, written in another order."""
    (own / "again").mkdir()
    for file in sorted((own / "gpt2").iterdir(), reverse=True):
        shutil.copyfile(file, own / "again" / file.name)
    return settings(own, **{"checkpoint.path": str(own / "again")})


def _touched(own: Path) -> Config:
    for file in own.rglob("*"):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    return settings(own)


def _beside(own: Path) -> Config:
    (own / "gpt2/optimizer.pt").write_text("x")
    (own / "gpt2/README.md").write_text("x")
    return settings(own)


def _moved(own: Path) -> Config:
    (own / "elsewhere").mkdir()
    for name in ("gpt2", "sae", "topics.csv", "ordinary.txt", "questions.jsonl"):
        shutil.move(own / name, own / "elsewhere" / name)
    return settings(own / "elsewhere")


def _spelt(own: Path) -> Config:
    """The same parameters in another order, with comments, and single values where lists stood."""
    values = settings(own).model_dump(mode="json")
    turned = {
        name: dict(reversed(part.items())) if isinstance(part, dict) else part for name, part in [*values.items()][::-1]
    }
    turned["extract"]["sites"] = turned["extract"]["sites"][0]
    lines = yaml.safe_dump(turned, sort_keys=False).splitlines()
    (own / "params.yaml").write_text("".join(f"{line}  # why\n" for line in ["", *lines]))
    return load_config(own / "params.yaml")


@pytest.mark.parametrize("change", [_touched, _reversed_copy, _beside, _moved, _spelt])
def test_what_does_not_matter_decides_about_nothing(
    change: Callable[[Path], Config], inputs: Path, plain: Path, versioned: Path, tmp_path: Path
) -> None:
    config = change(shutil.copytree(inputs, tmp_path / "own"))
    assert by_manifests(config, plain) == set()
    assert by_dvc(config, versioned, told(settings(inputs), versioned)) == set()
    assert foreseen(config, plain) == foreseen(config, versioned) == set()


def test_the_report_is_made_again_where_it_would_tell_something_else(inputs: Path, plain: Path, tmp_path: Path) -> None:
    """Of the same numbers, measured elsewhere."""
    audit = shutil.copytree(plain, tmp_path / "audit")
    manifest = json.loads((audit / "evaluate" / artifact.MANIFEST).read_text())
    artifact.write_manifest(
        audit / "evaluate",
        **{key: manifest[key] for key in ("stage", "method", "inputs", "params")},
        facts={"device": "cuda (NVIDIA H100)"},
    )
    assert by_manifests(settings(inputs), audit) == {"report"}


def test_a_manifest_that_was_changed_is_told(inputs: Path, plain: Path, tmp_path: Path) -> None:
    audit = shutil.copytree(plain, tmp_path / "audit")
    file = audit / "report" / artifact.MANIFEST
    file.write_text(file.read_text().replace('"facts": {}', '"facts": {"warnings": []}'))
    assert by_manifests(settings(inputs), audit) == {"report"}


def test_parts_of_another_version_of_a_library_are_not_taken_over(
    inputs: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole artifact is, since it says what made it."""
    keys = []

    def noted(stage: Stage, config: Config, before: Any, out: Path, parts: Parts) -> dict[str, object]:
        keys.append(parts.folder.name)
        return cheap(stage, config, before, out, parts)

    monkeypatch.setattr(Stage, "run", noted)
    audit, other = shutil.copytree(plain, tmp_path / "audit"), {**artifact.library_versions(), "torch": "99"}
    compute_stage("extract", settings(inputs), audit)
    compute_stage("extract", settings(inputs), audit)
    monkeypatch.setattr(artifact, "library_versions", lambda: other)
    compute_stage("extract", settings(inputs), audit)
    assert keys[0] == keys[1] != keys[2]
    assert by_manifests(settings(inputs), audit) == {"report"}, "which tells the versions"


def test_nothing_is_recorded_of_inputs_that_changed_while_a_stage_ran(
    inputs: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, audit = shutil.copytree(inputs, tmp_path / "own"), shutil.copytree(plain, tmp_path / "audit")
    before = (audit / "extract" / artifact.MANIFEST).read_bytes()

    def careless(stage: Stage, config: Config, folders: Any, out: Path, parts: Parts) -> dict[str, object]:
        (parts.folder / "one").mkdir(parents=True)
        flip(own / "ordinary.txt", 3)
        return cheap(stage, config, folders, out, parts)

    monkeypatch.setattr(Stage, "run", careless)
    with pytest.raises(InputsChangedError, match=r"extract reads changed .* run the same command again"):
        run_stage("extract", settings(own), audit, force=True)
    assert (audit / "extract" / artifact.MANIFEST).read_bytes() == before
    assert sorted(path.name for path in audit.iterdir()) == sorted(STAGES), "neither parts nor a half"


@contextmanager
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of the parameters that are read in the meantime."""
    seen: set[str] = set()
    prefixes = {model: name.rpartition(".")[0] for name, model in leaves()}
    plainly = BaseModel.__getattribute__

    def noted(section: Any, name: str) -> Any:
        prefix = prefixes.get(type(section))
        if prefix is not None and name in type(section).model_fields:
            seen.add(f"{prefix}.{name}".lstrip("."))
        return plainly(section, name)

    with monkeypatch.context() as patch:
        patch.setattr(configuration._Section, "__getattribute__", noted, raising=False)
        yield seen


def test_a_stage_reads_no_parameter_that_is_not_in_its_key(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "svg", lambda _: "<svg/>")
    run, read, known = Stage.run, {}, {name for name, _ in leaves()}

    def noted(stage: Stage, *arguments: Any) -> dict[str, object]:
        with reading(monkeypatch) as seen:
            found = run(stage, *arguments)
        keyed = {name for name, _ in flat(stage_params(stage, arguments[0]))}
        paths = {name for name in known if name.rpartition(".")[2] in PATHS}
        whole = {*stage.params}
        read[stage.name] = {
            name
            for name in (seen & known) - keyed - paths
            if not any(name == key or name.startswith(f"{key}.") for key in whole)
        }
        return found

    monkeypatch.setattr(Stage, "run", noted)
    config = settings(inputs, **{"evaluate.questions": None, "checkpoint.sae": None, "fit.rows": "all"})
    for name in STAGES:
        run_stage(name, config, tmp_path / "audit")
    assert read == {name: UNKEYED.get(name, set()) for name in STAGES}
