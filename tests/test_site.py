"""The documentation as a whole: its commands can be typed, its links lead somewhere, its site has every page."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from flows.verbs import app
from neuronlens.params import load_config
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# programs of others; what they are told is theirs to check
OTHERS = {"CUDA_VISIBLE_DEVICES=0", "cd", "dask", "dvc", "export", "git", "pip", "prefect"}


def words(page: str) -> Iterator[list[str]]:
    """Every command of the blocks of shell on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix(indent), comments=True)
            while "&&" in words:
                place = words.index("&&")
                yield words[:place]
                words = words[place + 1 :]
            if words:
                yield words


@cache
def verbs() -> dict[str, Any]:
    """The command line's."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@pytest.mark.parametrize("page", [name for name in NAMES if next(words(name), None)])
def test_every_command_can_be_typed(page: str) -> None:
    for command, *arguments in words(page):
        if command == "neuronlens":
            context = verbs()[arguments[0]].make_context(arguments[0], arguments[1:])
            load_config(None, [*(context.params.get("overrides") or ()), "checkpoint.path=x"])
        elif command == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), arguments
        elif command == "python":
            assert arguments[0] == "-m"
            assert find_spec(arguments[1]), arguments
        else:
            assert command in OTHERS, command


def test_what_is_typed_wrongly_is_found() -> None:
    for wrong in (["--checkpiont", "x"], ["--set"]):
        with pytest.raises(Exception, match=r"No such option|requires an argument"):
            verbs()["audit"].make_context("audit", wrong)


def blocks(page: str, language: str) -> list[str]:
    """Of code on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [name for name in NAMES if blocks(name, "yaml")])
def test_every_piece_of_params_is_accepted(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "params.yaml").write_text(block, encoding="utf-8")
        load_config(tmp_path / "params.yaml")


@pytest.mark.parametrize("page", [name for name in NAMES if blocks(name, "python")])
def test_every_name_that_is_imported_exists(page: str) -> None:
    for block in blocks(page, "python"):
        imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
        for node in imports:
            assert [
                alias.name for alias in node.names if not hasattr(import_module(str(node.module)), alias.name)
            ] == []


def test_the_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for page in PAGES for name in re.findall(r"neuronlens\[(\w+)\]", page.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(extras)


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as mkdocs makes them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", text):
        if ":" in file:
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.is_file(), file
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.resolve()), f"{file}#{anchor}"


def entries(part: Any) -> Iterator[str]:
    """Files of the navigation."""
    if isinstance(part, str):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from entries(inner)


def test_the_site_has_every_page_and_every_room() -> None:
    nav = set(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    written = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents}
    rooms = {file.parent.name for file in (ROOT / "neuronlens").glob("*/__init__.py")}
    reference = {f"reference/neuronlens.{room}.md" for room in rooms}
    reference |= {f"reference/{name}.md" for name in ("neuronlens", "tasks", "flows", "command-line", "params")}
    assert nav == written | reference | {"index.md", "contributing.md", "changelog.md"}


def test_the_site_asks_nobody_for_anything() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert {"extra_javascript", "extra_css", "repo_url"} & set(config) == set()
    for page in PAGES:
        assert not re.search(r"```mermaid|<script|!\[[^]]*\]\(https?:|<img", page.read_text(encoding="utf-8")), page
