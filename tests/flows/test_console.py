"""The table of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.console import show_results
from neuronlens.pages.text import points
from neuronlens.report.table import KIND_NAMES, result_rows


def _shown(file: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_results(json.loads(file.read_text()))
    return capsys.readouterr().out


def test_every_main_method_has_its_row(
    audited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = audited / "report/audit.json"
    lines = _shown(file, 80, monkeypatch, capsys).splitlines()
    rows = result_rows(json.loads(file.read_text()))
    assert {row.kind for row in rows} == {"gaussian", "full", "tuned", "random_neurons", "random_ranges", "leace"}
    results = [line for line in lines if line.startswith(tuple(KIND_NAMES.values()))]
    for row, line in zip(rows, results, strict=True):
        assert line.startswith(KIND_NAMES[row.kind])
        for drop in (row.target_drop, row.complement_drop, row.selectivity):
            assert f" {points(drop)} [" in line
    headings = [[part.strip() for part in line.split(maxsplit=1)] for line in lines]
    for row in rows:
        if row.kind in ("gaussian", "full"):
            assert [row.site, f"by {row.saliency}"] in headings
        assert [row.site, "chosen on validation"] in headings


def test_it_fits_80_columns_and_is_never_cut(
    audited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = _shown(audited / "report/audit.json", 200, monkeypatch, capsys)
    assert max(map(len, wide.splitlines())) <= 80
    assert _shown(audited / "report/audit.json", 20, monkeypatch, capsys) == wide


def test_it_is_plain_text_where_nobody_looks(
    audited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _shown(audited / "report/audit.json", 80, monkeypatch, capsys)
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_what_several_sites_give_together_is_told(
    tmp_path: Path, audited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = json.loads((audited / "report/audit.json").read_text())
    assert "edited together" not in _shown(audited / "report/audit.json", 80, monkeypatch, capsys)
    row = {"count": 2, "verdict": "not decided"}
    row |= {"selectivity": 0.5, "selectivity_low": 0.25, "selectivity_high": 0.75}
    row |= {"gain": 0.02, "gain_low": -0.01, "gain_high": 0.05}
    audit["layers"]["joint"] = [{"concept": "sports", **row}, {"concept": None, **row}]
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    told = _shown(tmp_path / "audit.json", 80, monkeypatch, capsys).splitlines()
    gain = f"{points(0.02)} [{points(-0.01)}, {points(0.05)}]"
    assert told[-1] == f"2 sites  50.0 [25.0, 75.0], gain {gain}: not decided"
    assert sum("together" in line for line in told) == 1


def test_warnings_go_to_stderr(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = json.loads((audited / "report/audit.json").read_text())
    audit["trust"]["warnings"] = ["concept \x1b[31mred has 3 rows"]
    show_results(audit)
    out, err = capsys.readouterr()
    assert err == "warning: concept \\u001b[31mred has 3 rows\n"
    assert "red" not in out
