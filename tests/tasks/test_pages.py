"""Pages around stored audits: what a line says of them, the index under many hands, and what is not ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuronlens.config import Config
from neuronlens.errors import UserError
from neuronlens.report.finished import SCHEMA_VERSION
from neuronlens.report.index import read
from tasks import pages
from tasks.around import Around
from tasks.around import around as judged_around
from tasks.audits import Audit, open_existing
from tasks.comparing import compared
from tasks.lines import Decision, Line
from tasks.pages import write_pages
from tasks.surroundings import Gates, surroundings
from tasks.versioning import Workspace
from tests.compared import Audits
from tests.forked import Forked

GATES = Config.model_validate(
    {"gates": {"known": "base_accuracy >= 0", "kept": "base_accuracy drop <= 0.9", "high": "base_accuracy >= 0.99"}}
).gates


def around(audit: Audit, gates: Gates, since: Path | None = None) -> Around:
    return judged_around(surroundings(audit, gates, since))


@pytest.fixture
def root(audits: Audits, tmp_path: Path) -> Path:
    """A workspace with checkpoint-1 and checkpoint-3, which was trained on, of one line."""
    root = Workspace.create(tmp_path / "ours").root
    for folder in (audits.first, audits.moved):
        shutil.copytree(folder, root / "audits" / folder.name)
    line = Line(root, "run", "run")
    line.add(
        Decision(
            "step-1", 1, "a", "audited", "checkpoint-1", gates=_judged(root, "checkpoint-1"), at="2026-11-01T00:00:00Z"
        )
    )
    line.add(
        Decision(
            "step-3",
            *(3, "b", "audited", "checkpoint-3"),
            before="checkpoint-1",
            gates=_judged(root, "checkpoint-3", since="checkpoint-1"),
            at="2026-11-03T00:00:00Z",
        )
    )
    return root


def _judged(root: Path, name: str, since: str | None = None) -> list[dict[str, Any]]:
    """As a line writes it down."""
    folder = root / "audits" / name
    before = None if since is None else root / "audits" / since
    if before is not None:
        compared(before, folder)
    kept = ("gate", "rule", "number", "value", "low", "high", "verdict", "waived", "note")
    found = around(open_existing(folder), GATES, before)
    return [{key: gate[key] for key in kept} for gate in found.gates]


def _write(root: Path, name: str, **options: Any) -> pages.Written:
    return write_pages(around(open_existing(root / "audits" / name), GATES), **options)


def _entries(root: Path) -> list[str]:
    entries, whole = read((root / "audits" / "index.html").read_text())
    assert whole
    return [entry.html for entry in entries]


def test_a_line_says_what_came_before_what_was_judged_and_the_trend(root: Path) -> None:
    found = around(open_existing(root / "audits" / "checkpoint-3"), GATES)
    assert found.place.before == root / "audits" / "checkpoint-1"
    assert found.place.comparison == root / "comparisons" / "checkpoint-1--checkpoint-3"
    assert found.day == "2026-11-03"
    assert {gate["gate"]: gate["verdict"] for gate in found.gates} == {"known": "PASS", "kept": "PASS", "high": "FAIL"}
    assert [(folder.name, own.name, own.current) for folder, own in found.trend] == [
        ("checkpoint-1", "step-1", False),
        ("checkpoint-3", "step-3", True),
    ]
    assert found.last is not None
    by_name = {gate["gate"]: gate for gate in found.gates}
    assert by_name["high"]["previous"] == found.last.values["accuracy"]


def test_what_was_judged_on_other_numbers_is_judged_anew(root: Path) -> None:
    line = Line(root, "run", "run")
    stale = [gate | {"value": 0.5, "verdict": "PASS"} for gate in _judged(root, "checkpoint-3", since="checkpoint-1")]
    line.add(replace(line.decisions()[-1], gates=stale, at="2026-11-04T00:00:00Z"))
    found = around(open_existing(root / "audits" / "checkpoint-3"), GATES)
    assert found.day != "2026-11-04"
    assert found.ruling.word == "FAIL"


def test_nothing_is_computed_where_no_comparison_is_stored(root: Path) -> None:
    shutil.rmtree(root / "comparisons")
    written = _write(root, "checkpoint-3")
    assert not (root / "comparisons").exists()
    assert "No comparison with step-1 is stored." in written.page.read_text().replace("<bdi>", "").replace("</bdi>", "")


def test_a_gate_with_a_mistake_is_told_of_on_the_page(root: Path) -> None:
    shutil.rmtree(root / "lines")
    gates = Config.model_validate({"gates": {"mine": "selectivty >= 0", "known": "base_accuracy >= 0"}}).gates
    found = around(open_existing(root / "audits" / "checkpoint-1"), gates)
    assert found.ruling.word == "NOT DECIDED"
    assert "Did you mean 'selectivity'?" in found.ruling.sentence


def test_pages_are_written_for_the_audit_its_comparison_and_all_audits(root: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-3"):
        assert _write(root, name).verdict == "FAIL"
    page = (root / "audits" / "checkpoint-3" / "index.html").read_text()
    assert 'href="../checkpoint-1/index.html"' in page
    assert 'href="../../comparisons/checkpoint-1--checkpoint-3/index.html"' in page
    other = (root / "comparisons" / "checkpoint-1--checkpoint-3" / "index.html").read_text()
    assert 'href="../../audits/checkpoint-3/index.html"' in other
    index = (root / "audits" / "index.html").read_text()
    assert 'href="checkpoint-3/index.html"' in index
    assert 'href="../comparisons/checkpoint-1--checkpoint-3/index.html"' in index
    assert len(_entries(root)) == 2
    compared(root / "audits" / "checkpoint-1", root / "audits" / "checkpoint-3")  # its folder is what its manifest says
    assert (root / "comparisons" / "checkpoint-1--checkpoint-3" / "index.html").read_text() == other


def test_git_leaves_the_page_of_a_comparison_alone_and_sees_what_it_says(root: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-3"):
        _write(root, name)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    told = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "comparisons"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not [file for file in told if file.endswith("index.html")]
    assert "comparisons/checkpoint-1--checkpoint-3/comparison.json" in told


def test_what_has_not_changed_is_not_written_again(root: Path) -> None:
    page = _write(root, "checkpoint-1").page
    index = root / "audits" / "index.html"
    stamps = [file.stat().st_mtime_ns for file in (page, index)]
    _write(root, "checkpoint-1")
    assert [file.stat().st_mtime_ns for file in (page, index)] == stamps
    _write(root, "checkpoint-1", anew=True)
    assert all(file.stat().st_mtime_ns > stamp for file, stamp in zip((page, index), stamps, strict=True))


def test_an_entry_stays_when_its_audit_has_gone(root: Path) -> None:
    _write(root, "checkpoint-1")
    before = _entries(root)
    shutil.rmtree(root / "audits" / "checkpoint-1")
    _write(root, "checkpoint-3")
    assert _entries(root)[1:] == before


def test_a_damaged_index_is_made_of_what_is_stored_and_of_what_is_whole(root: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-3"):
        assert not _write(root, name).index_remade
    before = _entries(root)
    index = root / "audits" / "index.html"
    for broken in (index.read_text().replace("step-1", "step-7"), "", "no page"):
        index.write_text(broken)
        assert _write(root, "checkpoint-3", anew=True).index_remade
        assert _entries(root) == before


def test_a_page_of_somebody_elses_is_left_alone(root: Path, tmp_path: Path) -> None:
    for file in (root / "audits" / "checkpoint-1" / "index.html", tmp_path / "mine.html"):
        file.write_text("<p>mine</p>")
        out = None if file.name == "index.html" else file
        with pytest.raises(UserError, match="is no page of NeuronLens"):
            _write(root, "checkpoint-1", out=out)
        assert file.read_text() == "<p>mine</p>"


def test_an_audit_of_another_schema_is_told_of(root: Path) -> None:
    document = root / "audits" / "checkpoint-1" / "report" / "audit.json"
    document.write_text(document.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 2'))
    with pytest.raises(UserError, match=r"another version of NeuronLens .* Bring it up to date first"):
        around(open_existing(root / "audits" / "checkpoint-1"), GATES)


def add(words: Sequence[str]) -> int:
    """Write the pages of audits."""
    for folder in words:
        write_pages(judged_around(surroundings(open_existing(Path(folder)), {})))
    return 0


def test_processes_that_add_at_once_lose_nothing(root: Path) -> None:
    names = [[f"{who}{i}" for i in range(3)] for who in "abc"]
    for name in (name for own in names for name in own):
        shutil.copytree(root / "audits" / "checkpoint-1", root / "audits" / name)
    running = [Forked(add, [str(root / "audits" / name) for name in own], root) for own in names]
    assert [process.wait() for process in running] == [0, 0, 0]
    index = (root / "audits" / "index.html").read_text()
    assert len(_entries(root)) == 9
    assert all(f'href="{name}/index.html"' in index for own in names for name in own)
    assert not [*(root / "audits").glob(".index*")]
