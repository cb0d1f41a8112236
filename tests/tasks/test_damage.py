"""What broke on damaged artifacts is told as damage; what breaks on whole ones is a bug, and keeps its traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from neuronlens.artifact import SCHEMA_VERSION, hash_file, read_json, write_json
from neuronlens.config import Config
from tasks.damage import damage_here, damage_to
from tasks.pipeline import Pipeline, pipeline_text
from tasks.versioning import Workspace
from tests.golden.make import AUDIT, COMPARISON, thawed


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stored audit, without the pages that are drawn of it."""
    monkeypatch.chdir(thawed(AUDIT, tmp_path))
    folder = tmp_path / "after"
    manifest = read_json(folder / "report/manifest.json")
    manifest["files"] = {
        name: known for name, known in manifest["files"].items() if (folder / "report" / name).exists()
    }
    write_json(folder / "report/manifest.json", manifest)
    return folder


def changed(file: Path, change: Callable[[Any], object]) -> None:
    value = read_json(file)
    change(value)
    write_json(file, value)


def sealed(folder: Path, name: str) -> None:
    """The manifest tells a file as it is now."""
    file = folder / name
    known = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
    changed(folder / "manifest.json", lambda manifest: manifest["files"].update({name: known}))


def test_whole_audits_are_whole(audit: Path) -> None:
    assert damage_to(audit) is None
    assert damage_here(["show", "after", "--json", "\x00", "x" * 5000]) is None


DAMAGES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a fact of another type": (
        "prepare/manifest.json",
        lambda found: found["facts"].update(sites=3),
        r"prepare/manifest\.json: cannot be read \(\$\.sites: 3 is not of type 'array'\); delete its folder",
    ),
    "a fact that is missing": (
        "extract/manifest.json",
        lambda found: found["facts"].pop("widths"),
        r"extract/manifest\.json: cannot be read \(\$: 'widths' is a required property\)",
    ),
    "a document without a section": (
        "report/audit.json",
        lambda found: found.pop("base"),
        r"report/audit\.json: cannot be read \(its bytes are not those that were written\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_damaged_file_is_named(audit: Path, name: str) -> None:
    file, change, told = DAMAGES[name]
    changed(audit / file, change)
    found = damage_to(audit)
    assert found is not None
    assert found.exit_code == 3
    with pytest.raises(type(found), match=told):
        raise found


def test_so_is_a_document_that_somebody_has_sealed_again(audit: Path) -> None:
    changed(audit / "report/audit.json", lambda found: found.pop("base"))
    sealed(audit / "report", "audit.json")
    assert r"audit.json: cannot be read ($: 'base' is a required property)" in str(damage_to(audit))


def test_changed_bytes_are_told_before_files_that_are_gone(audit: Path) -> None:
    (audit / "fit/overlap.parquet").unlink()
    assert "overlap.parquet: cannot be read (it is missing)" in str(damage_to(audit))
    (audit / "fit/statistics.parquet").write_bytes(b"PAR1")
    assert "statistics.parquet: cannot be read (its bytes are not" in str(damage_to(audit))


@pytest.mark.parametrize("line", [["show", "after"], ["gate", "after"]])
def test_a_verb_that_stumbles_over_damage_says_so(
    audit: Path, capfd: pytest.CaptureFixture[str], line: list[str]
) -> None:
    (audit.parent / "params.yaml").write_text("gates: {known: base_accuracy >= 0}")
    changed(audit / "report/audit.json", lambda found: found.pop("base"))
    assert main(line) == 3
    err = capfd.readouterr().err
    assert err.startswith("neuronlens: after/report/audit.json: cannot be read (its bytes")
    assert err.count("\n") == 1


def test_a_bug_on_whole_artifacts_keeps_its_traceback(
    audit: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("flows.console.show_results", broken)
    assert main(["show", "after"]) == 3
    assert "KeyError: 'a bug'" in capfd.readouterr().err


def test_a_list_tells_which_audit_is_damaged(audit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = Workspace.create(audit.parent).root
    (root / "audits").mkdir()
    audit.rename(root / "audits/after")
    (root / "audits/after/dvc.yaml").write_text(
        pipeline_text(Config(), Pipeline(root, root / "audits/after", "audits/after/dvc.yaml"))
    )
    assert main(["list"]) == 0
    changed(root / "audits/after/prepare/manifest.json", lambda found: found["facts"].update(rows=3))
    assert main(["list"]) == 3
    assert (
        "audits/after/prepare/manifest.json: cannot be read ($.rows: 3 is not of type 'object')"
        in capfd.readouterr().err
    )


def test_comparisons_are_looked_at_too(tmp_path: Path) -> None:
    folder = thawed(COMPARISON, tmp_path) / "comparison"
    assert damage_to(folder) is None
    changed(folder / "comparison.json", lambda found: found.pop("changes"))
    assert "comparison.json: cannot be read" in str(damage_to(folder))


def test_a_newer_manifest_is_told_as_what_it_is(audit: Path) -> None:
    changed(audit / "fit/manifest.json", lambda found: found.update(schema_version=SCHEMA_VERSION + 1))
    assert "upgrade it" in str(damage_here(["show", "after"]))
