"""What the README promises can be done."""

from __future__ import annotations

import re

import pytest

from neuronlens.example import Example
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_snippet_runs(
    example: Example, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    assert example.folder.relative_to(ROOT).as_posix() in snippet
    exec(compile(snippet, "README.md", "exec"), {})
    changed, looked_at = map(int, re.findall(r"\d+", capsys.readouterr().out))
    assert 0 < changed < looked_at


def test_links_lead_to_files_of_the_repository() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"audit", "test"} <= named <= targets


def test_the_table_of_methods_is_the_benchmarks() -> None:
    """benchmarks/selectivity.md is written by the command that the README names beside the table."""
    written = (ROOT / "benchmarks/selectivity.md").read_text(encoding="utf-8")
    rows = [line for line in README.splitlines() if line.startswith("| ") and " / " in line]
    assert len(rows) >= 4
    assert [row for row in rows if row.rstrip("|") not in written] == []
    counts = set(re.findall(r"\d+ of 1[78]\b", README.partition("## What it finds")[2].partition("\n## ")[0]))
    assert counts
    assert [count for count in counts if f"in {count} comparisons" not in written] == []
