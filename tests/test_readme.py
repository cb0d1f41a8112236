"""What the README promises can be done."""

from __future__ import annotations

import re

import pytest

from neuronlens.example import Example
from neuronlens.families import FAMILIES
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


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"audit", "test"} <= named <= targets


def test_what_it_finds_is_the_benchmarks() -> None:
    """benchmarks/selectivity.md is written by the command that both pages name."""
    written = (ROOT / "benchmarks/selectivity.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and " / " in line]
    assert len(rows) >= 4
    assert [row for row in rows if row.rstrip("|") not in written] == []
    for told in (page, README.partition("## What it finds")[2].partition("\n## ")[0]):
        counts = set(re.findall(r"\d+ of 1[78]\b", told))
        assert counts
        assert [count for count in counts if f"in {count} comparisons" not in written] == []


def test_the_families_are_counted() -> None:
    assert f"of {len(FAMILIES)} families" in README


def test_the_tutorial_reads_the_table_of_the_front_page() -> None:
    """Of one and the same audit."""
    (table,) = re.findall(
        r"```\n( +target +others.*?)```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert table in README


def test_a_reader_decides_within_two_minutes() -> None:
    prose = re.sub(r"```.*?```|^\|.*$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < 2 * 400
    assert 1 <= len(re.findall(r"!\[", README)) <= 3
