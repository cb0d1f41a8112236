"""Artifacts that were written by former versions are read by this one, and those of newer ones are refused in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load, save

from flows.cli import main
from neuronlens.artifact import is_intact, read_json, read_table, write_json
from neuronlens.errors import ArtifactError, LensError
from neuronlens.figures.between import changes
from neuronlens.interventions.lens import Lens
from neuronlens.pages.text import points
from tests.golden.make import AUDIT, COMPARISON, FOLDER, LENS, thawed
from tests.interventions.test_lens_file import KEY, parts

AUDITS, COMPARISONS, LENSES = (sorted(FOLDER.glob(f"{name}-*")) for name in ("audit", "comparison", "lens"))
SITE = "resid_post.1"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capfd: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    capfd.readouterr()
    code = main([*line])
    out, err = capfd.readouterr()
    return code, out + err


@pytest.mark.parametrize("file", [AUDIT, COMPARISON, LENS], ids=lambda file: file.name)
def test_the_versions_of_today_are_frozen(file: Path) -> None:
    assert file.exists(), "a version was raised: python -m tests.golden.make, and commit what appears"


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in (*AUDITS, *COMPARISONS, *LENSES)) < 200_000


@pytest.mark.parametrize("file", AUDITS, ids=lambda file: file.name)
def test_audits_are_read_by_every_verb(file: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    thawed(file, here)
    document = read_json(here / "after/report/audit.json")
    assert all(is_intact(here / name / stage) for name in ("before", "after") for stage in ("fit", "evaluate"))
    code, shown = told(capfd, "show", "after")
    assert code == 0
    assert f"unedited: accuracy {points(document['base']['accuracy'])} %" in shown
    assert "there is no page of it yet: neuronlens report after writes one" in shown
    code, card = told(capfd, "neuron", "after", f"{SITE}:3", "--json")
    means = read_table(here / "after/fit/statistics.parquet").to_pylist()
    wanted = {row["concept"]: row["mean"] for row in means if row["neuron"] == 3}
    assert {row["concept"]: row["mean"] for row in json.loads(card)["concepts"]} == pytest.approx(wanted)
    (here / "params.yaml").write_text("gates: {known: base_accuracy >= 0, all: base_accuracy > 1}")
    code, judged = told(capfd, "gate", "after", "--json")
    assert (code, [each["verdict"] for each in json.loads(judged)]) == (1, ["PASS", "FAIL"])
    code, found = told(capfd, "compare", "before", "after", "--json")
    assert code == 0
    assert json.loads(found)["sites"] == [SITE]
    assert told(capfd, "export", "after", "--concept", "health", "-o", "x.lens")[0] == 0
    assert str(Lens.load(here / "x.lens").sites[0]) == SITE


@pytest.mark.parametrize("file", AUDITS, ids=lambda file: file.name)
def test_pages_are_written_of_audits_or_they_are_to_be_brought_up_to_date(
    file: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    thawed(file, here)
    code, shown = told(capfd, "report", "after")
    if file == AUDIT:
        assert code == 0
        assert "<!doctype html>" in (here / "after/index.html").read_text()
    else:
        assert (code, "Bring it up to date first" in shown) == (2, True)


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.name)
def test_comparisons_are_read(file: Path, here: Path) -> None:
    thawed(file, here)
    assert is_intact(here / "comparison")
    assert changes(here / "comparison").to_dict()


@pytest.mark.parametrize("file", LENSES, ids=lambda file: file.name)
def test_lenses_are_read(file: Path) -> None:
    lens = Lens.load(file)
    assert (lens.concept, [str(site) for site in lens.sites]) == ("finance", [SITE])


@pytest.mark.parametrize("name", ["report/audit.json", "fit/manifest.json", "prepare/manifest.json"])
def test_audits_of_newer_versions_are_refused(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    thawed(AUDIT, here)
    file = here / "after" / name
    known = read_json(file)
    write_json(file, known | {"schema_version": known["schema_version"] + 1})
    verbs = {"report/audit.json": ("show", "report", "gate", "neuron", "export"), "fit/manifest.json": ("compare",)}
    for verb in verbs.get(name, ("compare", "report")):
        options = {
            "neuron": ["after", f"{SITE}:3"],
            "compare": ["before", "after"],
            "export": ["after", "--concept", "health", "-o", "x.lens"],
        }
        code, shown = told(capfd, verb, *options.get(verb, ["after"]))
        told_to = rf"neuronlens: .*{name}: schema version \d+ is newer than \d+, the newest this NeuronLens reads; upgrade it\n"
        assert code == 3, verb
        assert re.fullmatch(told_to, shown), (verb, shown)


def test_comparisons_of_newer_versions_are_refused(here: Path) -> None:
    thawed(COMPARISON, here)
    file = here / "comparison/comparison.json"
    known = read_json(file)
    write_json(file, known | {"schema_version": known["schema_version"] + 1})
    with pytest.raises(ArtifactError, match=r"comparison\.json: schema version \d+ is newer than.*upgrade it"):
        changes(here / "comparison")


def test_lenses_of_newer_versions_are_refused(here: Path) -> None:
    tensors, header = parts(LENS.read_bytes())
    (here / "lens").write_bytes(save(tensors, {KEY: json.dumps(header | {"format": header["format"] + 1})}))
    assert load((here / "lens").read_bytes()).keys() == tensors.keys()
    with pytest.raises(
        LensError, match=r"has format \d+, newer than \d+, the newest this NeuronLens reads. Upgrade it"
    ):
        Lens.load(here / "lens")
