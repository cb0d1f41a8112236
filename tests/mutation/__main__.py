"""`make mutants`: have mutmut change the code in one place at a time, and say which of these changes no test notices. It takes hours.

Tests are run twice over. Most mutants fall to the first of a few tests that come by little else, so these are run alone at first; what is
left meets as many tests as fit into half a minute, unless survivors.toml has a reason for it. mypy counts as a test, as `make check` runs
it. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.mutation.typing_errors import functions

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "mutants"
STATS = MUTANTS / "mutmut-stats.json"
WHOLE = MUTANTS / "all-tests.json"
REASONS = Path(__file__).with_name("survivors.toml")

# any one: mutmut finds out which tests come by which function before it runs the first
_ANY = "neuronlens.ranges.overlap.x_jaccard__mutmut_1"
_FEW, _MANY = 5.0, 30.0  # seconds of tests for a mutant
_MOST = 40  # tests for a mutant at first: each has to be collected
_KILLED = ("killed", "timeout", "caught by type check", "segfault")
_LEAST = 0.9


def mutmut(*words: str) -> str:
    """What mutmut prints, which goes on as it is unless it is a list of results."""
    told = {"stdout": subprocess.PIPE, "text": True} if words[0] == "results" else {}
    run = subprocess.run(["mutmut", *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, **told)
    if run.returncode:
        sys.exit(run.returncode)
    return run.stdout or ""


def narrowed(stats: Mapping[str, object], seconds: float, most: int | None) -> dict[str, object]:
    """What mutmut knows of tests, with some tests alone for each function.

    First those that come by the fewest functions, and of a test that has parameters one run before the second of any.
    """
    durations: dict[str, float] = stats["duration_by_test"]
    tests: dict[str, list[str]] = stats["tests_by_mangled_function_name"]
    met = Counter(test for own in tests.values() for test in set(own))
    chosen = {}
    for function, own in tests.items():
        runs, turns = Counter[str](), {}
        for test in sorted(set(own), key=lambda test: (met[test], durations.get(test, seconds), test)):
            runs[test.partition("[")[0]] += 1
            turns[test] = runs[test.partition("[")[0]]
        kept, took = [], 0.0
        for test in sorted(turns, key=turns.__getitem__):
            longer = took + durations.get(test, seconds)
            if not kept or (longer <= seconds and len(kept) < (most or len(own))):
                kept.append(test)
                took = longer
        chosen[function] = kept
    return {**stats, "tests_by_mangled_function_name": chosen}


def results() -> dict[str, str]:
    """Mutant -> what became of it."""
    lines = (line.strip().rpartition(": ") for line in mutmut("results", "--all", "true").splitlines())
    return {name: status for name, _, status in lines if name}


def run() -> None:
    """Make and try all mutants."""
    if not WHOLE.exists():
        shutil.rmtree(MUTANTS, ignore_errors=True)
        mutmut("run", _ANY)
        shutil.copy(STATS, WHOLE)
    stats = json.loads(WHOLE.read_text())
    STATS.write_text(json.dumps(narrowed(stats, _FEW, _MOST)))
    mutmut("run")
    left = by_reason(results()).get(None)
    STATS.write_text(json.dumps(narrowed(stats, _MANY, None)))
    if left:
        mutmut("run", *left)


@functools.cache
def _written(file: Path) -> tuple[list[str], dict[str, ast.FunctionDef]]:
    return file.read_text(encoding="utf-8").splitlines(), functions(file)


def change(name: str) -> str:
    """What a mutant changes, in a line."""
    module, _, function = name.rpartition(".")
    lines, known = _written(MUTANTS / f"{module.replace('.', '/')}.py")
    original = f"{function.rpartition('__mutmut_')[0]}__mutmut_orig"
    before, after = (
        [line.replace(node.name, "").strip() for line in lines[node.lineno - 1 : node.end_lineno]]
        for node in (known[original], known[function])
    )
    different = difflib.unified_diff(before, after, n=0, lineterm="")
    return " ".join(line for line in different if line[:3] not in ("---", "+++") and line[:2] != "@@")


def reason(name: str, changed: str, reasons: Sequence[Mapping[str, Any]]) -> str | None:
    """Why no test can notice a mutant, or none should; None where nobody has said so."""
    return next(
        (
            entry["why"]
            for entry in reasons
            if any(fnmatch(name, of) for of in entry.get("of", ["*"])) and re.search(entry["change"], changed)
        ),
        None,
    )


def by_reason(found: Mapping[str, str]) -> dict[str | None, list[str]]:
    """Reason -> those that survive; None where nobody has said why."""
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8"))["reasons"]
    left: dict[str | None, list[str]] = {}
    for name in survivors(found):
        left.setdefault(reason(name, change(name), reasons), []).append(name)
    return left


def report(found: Mapping[str, str], left: Mapping[str | None, Sequence[str]]) -> Iterator[str]:
    """The score of every folder as a table, then the survivors by their reasons."""
    folders = dict.fromkeys(name.split(".")[1] for name in found)
    yield "| | changes | a test fails | mypy objects | no end | unnoticed | noticed |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for folder in (*folders, None):
        own = Counter(status for name, status in found.items() if folder in (name.split(".")[1], None))
        killed, total = sum(own[status] for status in _KILLED), sum(own.values())
        tests, types, time = own["killed"] + own["segfault"], own["caught by type check"], own["timeout"]
        row = (f"`{folder}/`" if folder else "all", *(f"{n:,}" for n in (total, tests, types, time, total - killed)))
        yield f"| {' | '.join(row)} | {killed / total:.1%} |"
    for why, names in sorted(left.items(), key=lambda item: (item[0] is None, item[0] or "")):
        yield f"\n{len(names)} survive: {why or 'nobody has said why'}"
        yield from (f"  {name}: {change(name)}" for name in names)


def survivors(found: Mapping[str, str]) -> Iterable[str]:
    """Those that were tried, and that no test has killed."""
    return [name for name, status in found.items() if status not in (*_KILLED, "not checked")]


def main() -> int:
    """Exit status: 0, or 1 where too many survive or one without a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--report", action="store_true", help="say what the last run found, without another")
    if not parser.parse_args().report:
        run()
    found = results()
    left = by_reason(found)
    killed = sum(status in _KILLED for status in found.values()) / len(found)
    sys.stdout.write("\n".join([*report(found, left), ""]))
    return int(killed < _LEAST or None in left)


if __name__ == "__main__":
    sys.exit(main())
