"""Docstrings of what is public name arguments and attributes that there are, and errors that are raised. Ruff sees that none is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# the docstring of a verb is its help, where errors speak for themselves
HELP = ROOT / "flows" / "verbs"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Public:
    """A public function, method or class, and where it stands."""

    place: str
    node: Function | ast.ClassDef

    def section(self, name: str) -> list[str]:
        """Names in front of the colons of a section of its docstring, which may stand for several: `lower, upper: bounds`."""
        lines = iter((ast.get_docstring(self.node) or "").splitlines())
        if not any(line == f"{name}:" for line in lines):
            return []
        found: list[str] = []
        for line in lines:
            if line and not line.startswith(" "):
                break
            entry = re.match(r" {4}(?! )([^:]+):", line)
            found += re.split(r",\s*", entry[1]) if entry else []
        return found


@cache
def trees() -> dict[Path, ast.Module]:
    """All modules."""
    files = [file for room in ("neuronlens", "tasks", "flows") for file in sorted((ROOT / room).rglob("*.py"))]
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}


def public(file: Path) -> Iterator[Public]:
    """What can be called or made from outside a module."""

    def within(body: list[ast.stmt], before: str) -> Iterator[Public]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield Public(f"{before}{node.name}", node)
                if isinstance(node, ast.ClassDef):
                    yield from within(node.body, f"{before}{node.name}.")

    return within(trees()[file].body, f"{file.relative_to(ROOT)}: ")


@cache
def errors() -> dict[str, set[str]]:
    """Name of each error of ours, and of each function that makes one -> the names under which it may be told: its own and its bases'."""
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found: dict[str, set[str]] = {"NeuronLensError": {"NeuronLensError"}}
    for _ in range(4):  # as deep as they are derived from each other
        for node in classes:
            bases = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            if bases:
                found[node.name] = {node.name}.union(*bases)
    makers = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, Function)]
    told = {node.name: ast.unparse(node.returns) for node in makers if node.returns is not None}
    return found | {name: found[kind] for name, kind in told.items() if kind in found}


def raised(node: ast.AST) -> Iterator[str]:
    """Names of what a function raises itself, not in functions within it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            yield ast.unparse(child.exc.func).rpartition(".")[2]
        yield from raised(child)


def arguments(node: Function) -> set[str]:
    """Of a function."""
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {each.arg for each in every if each is not None}


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields, properties and what methods set."""
    found = {part.name for part in node.body if isinstance(part, Function)}
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            found.add(part.id)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            found.add(part.attr)
    return found


def broken(file: Path) -> Iterator[str]:
    """What a module documents that there is not, and what its functions raise without a word."""
    for each in public(file):
        if isinstance(each.node, ast.ClassDef):
            named, known = each.section("Attributes"), attributes(each.node)
        else:
            named, known = each.section("Args"), arguments(each.node)
            told = {*each.section("Raises")}
            kinds = {name: errors()[name] for name in raised(each.node) if name in errors()}
            if HELP not in file.parents:
                yield from (f"{each.place} raises {name}" for name, kind in kinds.items() if not kind & told)
        yield from (f"{each.place} has no {name}" for name in named if not any(fnmatch(own, name) for own in known))


def test_documented_names_exist_and_raised_errors_are_documented():
    assert [told for file in trees() for told in broken(file)] == []


def test_the_rule_finds_what_it_is_for(monkeypatch):
    file = ROOT / "flows" / "made_up.py"
    source = '''
class Thing:
    """A thing.

    Attributes:
        size, weight_*: known, unknown.
    """

    size: int

def run(here):
    """Run.

    Args:
        there: nowhere.
    """
    raise SiteError("x")
'''
    monkeypatch.setitem(trees(), file, ast.parse(source))
    assert [told.partition(": ")[2] for told in broken(file)] == [
        "Thing has no weight_*",
        "run raises SiteError",
        "run has no there",
    ]
