"""The worked notebook runs on the example, and what is committed of it is what it shows."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest

from neuronlens.example import Example
from tests.notebook import NOTEBOOK, executed

ROW = re.compile(r"^(\w+) +(ranges|whole|tuned) +(\S+) +(\S+) +(\S+) \[", re.MULTILINE)


@pytest.fixture(scope="module")
def run(example: Example, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook after a run."""
    assert example.folder == NOTEBOOK.parents[1] / "data" / "example"
    home = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name.lower()))
        return executed()


def shown(notebook: nbformat.NotebookNode) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Per cell of code the kinds of what it shows."""
    return [
        [(output.output_type, tuple(sorted(output.get("data", {output.get("name"): None})))) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def printed(notebook: nbformat.NotebookNode) -> str:
    texts: list[Any] = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(texts)


def test_it_runs_and_shows_what_is_committed(run: nbformat.NotebookNode) -> None:
    """Kinds of output, not digits: weights trained on another kind of processor give others."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    assert shown(run) == shown(committed)
    assert all(kind != "error" and "stderr" not in names for cell in shown(run) for kind, names in cell)
    images = [names for cell in shown(run) for _, names in cell if "image/svg+xml" in names]
    assert len(images) == 2, "the neuron's distributions, and the effects of the methods"


def test_what_it_shows_is_what_its_words_say(run: nbformat.NotebookNode) -> None:
    """Several concepts in one neuron; the tuned edit is the most selective; and an edit changes answers of its concept."""
    text = printed(run)
    assert re.search(r"neuron +\d+ is among the most salient of \w+, \w+, \w+", text)
    rows = ROW.findall(text)
    assert len(rows) == 3 * 6
    mean = {name: sum(float(row[4]) for row in rows if row[1] == name) / 6 for name in ("ranges", "whole", "tuned")}
    assert mean["tuned"] > max(mean["ranges"], mean["whole"]) > 0
    answers = [line.split("…")[1].split() for line in text.splitlines() if re.search(r"…( +\w+){4}$", line)]
    assert len(answers) == 8
    assert any(unedited != tuned for unedited, _, _, tuned in answers)


def test_what_is_committed_is_small_and_of_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 250_000
    assert re.findall(r"/(?:home|root|tmp|Users|usr|opt|work)/", text) == []
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [
        number + 1 for number, _ in enumerate(shown(notebook))
    ]
    assert [*notebook.metadata] == ["kernelspec"]
    assert all(not cell.metadata for cell in notebook.cells)
