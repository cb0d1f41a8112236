"""The record of a line of checkpoints: added to whole or not at all, and watched by one process at a time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from neuronlens.errors import UserError
from tasks.lines import RECORD, SOURCE, Decision, Line, lines_of


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


def test_sources_of_the_same_name_are_no_line_together(tmp_path: Path) -> None:
    """Whichever is watched first has the plain name, on another machine, too, where the workspace lies elsewhere."""
    root = tmp_path / "ours"
    runs = [root / "a" / "output", root / "b" / "output", tmp_path / "output"]
    for run in runs:
        run.mkdir(parents=True)

    def names(root: Path) -> list[str]:
        return [Line.of(source, root).name for source in (*map(str, runs), "models:/output")]

    assert names(root) == ["output"] * 4, "nobody has it yet"
    Line.of(str(runs[1]), root).add(decision("checkpoint-1"))
    first, second, third, fourth = names(root)
    assert second == "output"
    assert all(re.fullmatch("output-[0-9a-f]{8}", name) for name in (first, third, fourth))
    assert len({first, second, third, fourth}) == 4
    Line.of(str(runs[0]), root).add(decision("checkpoint-2"))
    assert lines_of(root) == sorted(["output", first])
    assert [one.checkpoint for one in Line.of(str(runs[0]), root).decisions()] == ["checkpoint-2"]
    moved = root.rename(tmp_path / "theirs")
    runs[:2] = [moved / "a" / "output", moved / "b" / "output"]
    assert names(moved) == [first, second, third, fourth]
    shutil.rmtree(moved / "lines" / "output")
    assert names(moved)[0] == first, "a line keeps its name"


def test_a_run_that_has_moved_goes_on_where_its_line_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "before" / "run").mkdir(parents=True)
    line = Line.of(str(tmp_path / "before" / "run"), tmp_path)
    line.add(decision("checkpoint-1"))
    (tmp_path / "before").rename(tmp_path / "after")
    moved = str(tmp_path / "after" / "run")
    assert Line.of(moved, tmp_path).name != line.name
    (line.folder / SOURCE).write_text("after/run\n")
    assert Line.of(moved, tmp_path).name == line.name


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
