"""The catalogue: made of what is stored, whenever it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronlens.artifact import read_json
from tasks.catalogue import catalogue, listed, trend
from tasks.lines import Decision, Line
from tests.compared import Audits


def _gate(verdict: str, value: float, waived: str | None = None) -> dict[str, object]:
    found = {"value": value, "low": value - 0.5, "high": value + 0.5}
    return {"gate": "a", "rule": "x >= 0", "number": "x", **found, "verdict": verdict, "waived": waived, "note": None}


@pytest.fixture
def line(audits: Audits, tmp_path: Path) -> Line:
    """Decisions on two audits and on a checkpoint that could not be audited."""
    (tmp_path / "it's a run").mkdir()
    made = Line.of(str(tmp_path / "it's a run"), tmp_path)
    gates = [_gate("PASS", 1.0), _gate("FAIL", -1.0), _gate("FAIL", -1.0, waived="known"), _gate("NOT APPLICABLE", 0.0)]
    for name, audit, error, at in (
        ("checkpoint-2", None, "no weights", "2026-01-01T00:00:00Z"),
        ("checkpoint-1", audits.first.name, None, "2026-01-02T00:00:00Z"),
        ("checkpoint-2", audits.moved.name, None, "2026-01-03T00:00:00Z"),
        ("checkpoint-3", None, "cut short", "2026-01-04T00:00:00Z"),
    ):
        outcome = "error" if audit is None else "audited"
        order = int(name[-1])
        made.add(Decision(name, order, f"{name}{at}", outcome, audit, None, None, gates if audit else [], error, at))
    return made


def test_audits_are_listed_with_the_numbers_of_their_reports(audits: Audits, line: Line, tmp_path: Path) -> None:
    rows = {
        row["audit"]: row for row in listed(tmp_path, [audits.first, audits.again, audits.moved, tmp_path / "none"])
    }
    assert rows.keys() == {audits.first.name, audits.again.name, audits.moved.name}
    for folder in (audits.first, audits.moved):
        row, numbers = rows[folder.name], read_json(folder / "report" / "metrics.json")
        assert row["accuracy"] == numbers["base/accuracy"]
        assert row["selectivity"] == numbers["tuned/selectivity"]
        assert row["perplexity"] == numbers["base/perplexity"]
        assert (row["line"], row["passed"], row["failed"], row["waived"]) == (line.name, 1, 1, 1)
    assert rows[audits.again.name]["line"] is None


def test_a_trend_has_the_last_word_on_each_checkpoint_in_their_order(
    audits: Audits, line: Line, tmp_path: Path
) -> None:
    found = trend(tmp_path, [audits.first, audits.moved], line.name)
    assert [(row["checkpoint"], row["outcome"], row["audit"]) for row in found] == [
        ("checkpoint-1", "audited", audits.first.name),
        ("checkpoint-2", "audited", audits.moved.name),
        ("checkpoint-3", "error", None),
    ]
    assert found[2]["error"] == "cut short"
    counts = ("passed", "failed", "not_decided", "waived", "not_applicable")
    assert [found[0][name] for name in counts] == [1, 1, 0, 1, 1]
    assert trend(tmp_path, [audits.first], "' or 1=1 --") == []


def test_it_can_be_asked_in_sql(audits: Audits, tmp_path: Path) -> None:
    connection = catalogue(tmp_path, [audits.first, audits.moved])
    assert connection.execute("select count(*) from audits where kind = 'language_model'").fetchall() == [(2,)]
    assert connection.execute("select count(*) from decisions").fetchall() == [(0,)]
