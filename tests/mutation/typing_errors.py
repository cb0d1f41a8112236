"""What mypy says of mutants, for mutmut, which takes out those that do not type.

Run among the mutants, with a word by which mutmut tells how to read it: `python -m tests.mutation.typing_errors mypy`.

mutmut puts all mutants of a function beside it, and wrappers around them, at some of which mypy stumbles. So what counts is an error within
a mutant that the function itself, which stands there too, has not got, of a kind that the wrappers do not bring about.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# what it makes of wrappers, whose functions are defined again and again and are looked up by name
_OF_WRAPPERS = {"has-type", "misc", "no-redef", "no-any-return", "var-annotated"}
_MUTANT, _ORIGINAL = "__mutmut_", "orig"
PACKAGE = Path("neuronlens")


def errors() -> list[dict[str, Any]]:
    """All that mypy says, kept beside the files as long as these stay as they are: it takes minutes."""
    content = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(PACKAGE.rglob("*.py")))).hexdigest()
    kept = Path(f".types-{content[:16]}.json")
    if not kept.exists():
        command = ["mypy", "--output", "json", "--no-warn-unused-ignores", "--package", PACKAGE.name]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode > 1:  # it broke, and said nothing of the mutants; mutmut shows what it cannot read as a list
            sys.stdout.write(run.stderr or run.stdout)
            sys.exit(run.returncode)
        kept.write_text(run.stdout)
    return [json.loads(line) for line in kept.read_text().splitlines() if line]


def functions(file: Path) -> dict[str, ast.FunctionDef]:
    """The mutants in a file, and the functions that they were made of, by their names."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef) and _MUTANT in node.name}


def caught(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The errors that a mutant has and its function has not."""
    for name in sorted({error["file"] for error in found}):
        spans = {line: node.name for node in functions(Path(name)).values() for line in _lines(node)}
        own = [(spans[error["line"]], error) for error in found if error["file"] == name and error["line"] in spans]
        before = {(_of(mutant), error["code"], error["message"]) for mutant, error in own if _is_original(mutant)}
        for mutant, error in own:
            known = (_of(mutant), error["code"], error["message"]) in before
            if not known and not _is_original(mutant) and error["code"] not in _OF_WRAPPERS:
                yield error


def _lines(node: ast.FunctionDef) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _of(mutant: str) -> str:
    return mutant.rpartition(_MUTANT)[0]


def _is_original(mutant: str) -> bool:
    return mutant.rpartition(_MUTANT)[2] == _ORIGINAL


def main() -> int:
    """Print them as mypy does."""
    for error in caught([error for error in errors() if error["severity"] == "error"]):
        sys.stdout.write(json.dumps(error) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
