"""The record of a line of checkpoints: added to whole or not at all, and watched by one process at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuronlens.errors import UserError
from tasks.lines import RECORD, Decision, Line


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Of a folder."""
    (tmp_path / "run").mkdir()
    return Line.of(str(tmp_path / "run"), tmp_path)


def decision(name: str, order: int = 1) -> Decision:
    return Decision(name, order, f"key of {name}", "error", error="no weights; \u2028 a line of its own?\n")


def test_what_is_added_is_read_again(line: Line) -> None:
    made = [decision("checkpoint-1"), decision("checkpoint-2", 2)]
    for one in made:
        line.add(one)
    assert line.decisions() == made
    assert line.known() == {(one.checkpoint, one.key): one for one in made}


def test_a_line_that_was_not_finished_is_none_and_makes_room(line: Line) -> None:
    line.add(decision("checkpoint-1"))
    file = line.folder / RECORD
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert line.decisions() == [decision("checkpoint-1")]
    line.add(decision("checkpoint-2"))
    assert [one.checkpoint for one in line.decisions()] == ["checkpoint-1", "checkpoint-2"]


def test_a_line_that_somebody_spoiled_is_told_with_its_place(line: Line) -> None:
    line.add(decision("checkpoint-1"))
    file = line.folder / RECORD
    file.write_text("<<<<<<< HEAD\n" + file.read_text())
    with pytest.raises(UserError, match=r"record\.jsonl:1: is no decision"):
        line.decisions()


def test_one_process_watches_a_line(line: Line) -> None:
    with line.watched(), pytest.raises(UserError, match="is being watched by another process"), line.watched():
        pass
    with line.watched():
        pass


def test_names_of_lines_are_safe(tmp_path: Path) -> None:
    assert Line.of("models:/our/../model", tmp_path).folder.parent == tmp_path / "lines"
    assert Line.of("owner/name", tmp_path).name == "owner--name"


@pytest.mark.parametrize(
    "changed",
    [
        *({name: value} for name in ("checkpoint", "key", "at") for value in (None, 3, [])),
        *({name: value} for name in ("audit", "before") for value in (3, "../../x", "a/b", "", ".")),
        *({"order": value} for value in ("1", None, True, 1 << 70, 1.5)),
        *({"gates": value} for value in (None, [3], [{}], [{"verdict": "PASS"}])),
        {"outcome": "perhaps"},
        {"error": 3},
        {"unheard": "of"},
    ],
    ids=str,
)
def test_a_decision_of_other_types_is_none(line: Line, changed: dict[str, object]) -> None:
    line.add(decision("checkpoint-1"))
    file = line.folder / RECORD
    file.write_text(json.dumps(json.loads(file.read_text()) | changed) + "\n")
    with pytest.raises(UserError, match=r"record\.jsonl:1: is no decision .*Take the line out"):
        line.decisions()
