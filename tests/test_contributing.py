"""CONTRIBUTING.md: its worked examples apply to the sources, are short, and do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.recipes import RECIPES

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TITLES = {
    "operator": "An operator",
    "saliency": "A saliency ranking",
    "kind": "A kind of range",
    "gate": "A gate metric",
    "family": "A model family",
}


def diff_of(name: str) -> str:
    """The only one of its section."""
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE.split(f"### {TITLES[name]}\n")[1].split("\n### ")[0], re.DOTALL)
    return str(diff)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | None]]:
    """Name -> what went wrong with the example applied, and without it."""
    copies = {}
    for name in RECIPES:
        copies[name] = tmp_path_factory.mktemp(name)
        for folder in ("neuronlens", "tests", "docs"):
            shutil.copytree(
                ROOT / folder, copies[name] / folder, ignore=shutil.ignore_patterns("__pycache__", "images", "golden")
            )
        command = ["git", "apply", "-"]
        done = subprocess.run(
            command, input=diff_of(name), text=True, cwd=copies[name], capture_output=True, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
    pairs = [f"{name}={folder}" for name, folder in copies.items()]
    command = [sys.executable, "-B", "tests/recipes.py", str(ROOT), *pairs]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    found: dict[str, list[str | None]] = json.loads(out)
    return found


@pytest.mark.parametrize("name", TITLES)
def test_a_worked_example_does_what_it_says_and_is_needed_for_it(
    name: str, applied: dict[str, list[str | None]]
) -> None:
    there, here = applied[name]
    assert there is None, there
    assert here is not None, "the sources do it already"


@pytest.mark.parametrize("name", TITLES)
def test_a_worked_example_is_short(name: str) -> None:
    assert len(diff_of(name).splitlines()) < 30


def test_the_files_and_commands_that_are_named_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", PAGE)) <= targets
    for file in re.findall(r"`((?:neuronlens|tests|flows|tasks)/[\w/.]+)`", PAGE):
        assert Path(ROOT / file).exists(), file
