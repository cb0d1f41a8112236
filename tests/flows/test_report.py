"""`neuronlens report`, and the pages that other verbs leave behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import engine, watch
from flows.cli import main
from neuronlens.artifact import is_intact
from neuronlens.params import load_config
from neuronlens.report.index import read
from tasks.lines import Line
from tasks.versioning import Workspace
from tests.flows.conftest import copied
from tests.flows.trained import trained

PARAMS = (
    "dataset: {path: data.csv}\n"
    "fit: {rows: all, saliency: mean_abs}\n"
    "interventions: {tau: 2.0, top: [0.3], tuned: null}\n"
    "evaluate: {bootstrap: 100, auxiliary: null}\n"
    "gates:\n"
    "  known: base_accuracy >= 0\n"
    "  kept: base_accuracy drop <= 0.9\n"
)


@pytest.fixture(scope="module")
def watched(
    workspace_at: Callable[[Path], Workspace], originals: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace whose run has left two checkpoints, both decided on."""
    root = workspace_at(tmp_path_factory.mktemp("reported") / "ours").root
    shutil.copy(originals / "data.csv", root)
    (root / "params.yaml").write_text(PARAMS)
    shutil.copytree(originals / "gpt2", root / "run" / "checkpoint-1")
    trained(root / "run", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["watch", "run", "--once", "--no-flow", "--settled", "0"]) == 0
    return root


@pytest.fixture
def root(watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder."""
    return copied(watched, tmp_path / "ours", monkeypatch)


def _audits(root: Path) -> list[Path]:
    return [Path("audits") / str(decision.audit) for decision in Line.of(str(root / "run"), root).decisions()]


def test_watching_leaves_a_page_for_each_audit_their_comparison_and_the_index(root: Path) -> None:
    first, second = _audits(root)
    assert "1 of 2 gates pass: base_accuracy " in (first / "index.html").read_text()
    page = (second / "index.html").read_text()
    assert "All 2 gates pass, the closest: " in page
    assert "since <bdi><a href=" in page
    folder = root / "comparisons" / f"{first.name}--{second.name}"
    assert "All 2 gates pass, the closest: " in (folder / "index.html").read_text()
    assert "No gates were judged on this page" in (folder / "comparison.html").read_text()
    assert is_intact(folder)
    entries, whole = read((root / "audits" / "index.html").read_text())
    assert whole
    assert [(entry.line, entry.order) for entry in entries] == [("run", 2), ("run", 1)]


def test_a_page_that_a_killed_look_has_not_written_is_written_by_the_next(root: Path) -> None:
    first, second = _audits(root)
    before = (second / "index.html").read_bytes()
    (second / "index.html").unlink()
    stamp = (first / "index.html").stat().st_mtime_ns
    config = load_config(root / "params.yaml")
    line = Line.of(str(root / "run"), root)
    assert watch.watch_once(config, line, watch.source_of(str(root / "run"), 0.0), use_flow=False) == []
    assert (second / "index.html").read_bytes() == before
    assert (first / "index.html").stat().st_mtime_ns == stamp


def test_the_page_is_written_anew_from_what_is_stored(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, second = _audits(root)
    shutil.rmtree(root / "run")
    (root / "data.csv").unlink()
    (second / "index.html").unlink()
    capsys.readouterr()
    assert main(["report", str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(second / "index.html"), "verdict": "PASS"}
    assert "All 2 gates pass" in (second / "index.html").read_text()
    assert main(["report", str(second)]) == 0
    assert capsys.readouterr().out == f"{second / 'index.html'}\n"


def test_since_compares_and_judges_anew_by_the_gates_of_the_day(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _audits(root)
    shutil.rmtree(root / "lines")
    shutil.rmtree(root / "comparisons")
    (root / "params.yaml").write_text(PARAMS + "  high: base_accuracy >= 1.1\n")
    assert main(["report", str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"
    assert "no audit before this one is named" in (second / "index.html").read_text()
    assert not (root / "comparisons").exists()
    assert main(["report", str(second), "--since", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"
    page = (second / "index.html").read_text()
    assert "no audit before this one is named" not in page
    assert "1 of 3 gates fails: base_accuracy " in page
    assert (root / "comparisons" / f"{first.name}--{second.name}" / "index.html").is_file()


def test_out_writes_one_file_and_open_shows_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second = _audits(root)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    stamp = (root / "audits" / "index.html").stat().st_mtime_ns
    out = tmp_path / "elsewhere" / "page.html"
    assert main(["report", str(second), "--out", str(out), "--open"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert opened == [out.as_uri()]
    assert f'href="../ours/audits/{second.name}/index.html"' not in out.read_text()  # its own address is no link on it
    assert 'href="../ours/audits/index.html"' in out.read_text()
    assert (root / "audits" / "index.html").stat().st_mtime_ns == stamp


def test_mistakes_are_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, second = _audits(root)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    for words, told in (
        ([str(tmp_path)], "holds no audit"),
        ([str(second), "--since", str(tmp_path)], "holds no finished audit"),
        ([str(second), "--out", str(mine)], "is no page of NeuronLens"),
    ):
        assert main(["report", *words]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert told in output.err
        assert len(output.err.splitlines()) == 1


def test_a_damaged_index_is_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "audits" / "index.html").write_text("half a pa")
    engine.log.propagate = True
    assert main(["report", str(_audits(root)[0])]) == 0
    assert "the index over all audits was damaged" in caplog.text
    entries, whole = read((root / "audits" / "index.html").read_text())
    assert (len(entries), whole) == (2, True)


def test_an_audit_prints_its_page_and_git_leaves_it_alone(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ours"
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    Workspace.create(root)
    shutil.copy(originals / "data.csv", root)
    (root / "params.yaml").write_text(PARAMS)
    (root / "audits").mkdir()
    monkeypatch.chdir(root)
    words = ["audit", "--checkpoint", str(originals / "gpt2"), "--no-flow"]
    assert main(words) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert page.name == "index.html"
    assert page.parent.parent == Path("audits")
    text = page.read_text()
    assert "judged on" in text
    assert "computed: not there yet" in text
    assert str(root) not in text
    status = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=all"]
    assert "index.html" not in subprocess.run(status, check=True, capture_output=True, text=True).stdout
    stamp = page.stat().st_mtime_ns
    time.sleep(0.01)
    assert main(words) == 0
    assert page.stat().st_mtime_ns == stamp
    assert main(["show", str(page.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
