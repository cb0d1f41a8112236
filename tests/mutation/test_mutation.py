"""What is made of mutmut's mutants: which tests they meet, which of them do not type, and what is told of those that survive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import __main__ as mutation
from tests.mutation.typing_errors import caught

# as mutmut writes them: the function, two mutants, and a wrapper in its place
MUTATED = '''\
def x_half__mutmut_orig(value: int) -> float:
    """Half of it."""
    return value / 2
def x_half__mutmut_1(value: int) -> float:
    """Half of it."""
    return value * 2
def x_half__mutmut_2(value: int) -> float:
    """Half of it."""
    return value / None
def half(value):
    return _wrapped(value)
'''


def error(file: Path, line: int, message: str, code: str = "operator") -> dict[str, object]:
    return {"file": str(file), "line": line, "message": message, "code": code, "severity": "error"}


def test_a_mutant_that_does_not_type_is_caught_and_the_wrapping_is_not(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text(MUTATED)
    own = error(file, 9, "no division by None")
    found = [
        own,
        *(error(file, line, "the function has it as well") for line in (3, 6)),
        error(file, 11, "of the wrapper"),
        error(file, 6, "defined already", "no-redef"),
    ]
    assert [*caught(found)] == [own]


def test_few_tests_are_those_that_come_by_little_else() -> None:
    durations = {"narrow": 1.0, "also narrow": 0.5, "wide": 0.1, "slow": 60.0}
    tests = {"f": ["wide", "narrow", "also narrow"], "g": ["wide"], "h": ["slow"], "i": ["wide", "wide"]}
    stats = {"duration_by_test": durations, "tests_by_mangled_function_name": tests, "more": 1}
    few = mutation.narrowed(stats, 1.5, 2)
    assert few == {**stats, "tests_by_mangled_function_name": {**few["tests_by_mangled_function_name"]}}
    assert few["tests_by_mangled_function_name"] == {
        "f": ["also narrow", "narrow"],
        "g": ["wide"],
        "h": ["slow"],  # one, however long it takes
        "i": ["wide"],
    }
    runs = {"duration_by_test": {}, "tests_by_mangled_function_name": {"f": ["a[1]", "a[2]", "b[1]"]}}
    assert mutation.narrowed(runs, 9, 2)["tests_by_mangled_function_name"]["f"] == ["a[1]"], "whose time is not known"
    runs["duration_by_test"] = {"a[1]": 1.0, "a[2]": 2.0, "b[1]": 3.0}
    assert mutation.narrowed(runs, 9, 2)["tests_by_mangled_function_name"]["f"] == ["a[1]", "b[1]"]
    assert mutation.narrowed(stats, 30, None)["tests_by_mangled_function_name"]["f"] == [
        "also narrow",
        "narrow",
        "wide",
    ]


def test_survivors_are_told_with_their_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "neuronlens" / "ranges" / "half.py"
    file.parent.mkdir(parents=True)
    file.write_text(MUTATED)
    reasons = tmp_path / "survivors.toml"
    reasons.write_text(
        "[[reasons]]\nwhy = 'it is as large'\nof = ['neuronlens.none.*', 'neuronlens.ranges.*']\nchange = 'value \\* 2'\n"
    )
    monkeypatch.setattr(mutation, "MUTANTS", tmp_path)
    monkeypatch.setattr(mutation, "REASONS", reasons)
    found = {"neuronlens.ranges.half.x_half__mutmut_1": "survived", "neuronlens.ranges.half.x_half__mutmut_2": "killed"}
    found |= {f"neuronlens.{folder}.x_f__mutmut_1": "timeout" for folder in ("interventions", "evaluation")}
    told = [*mutation.report(found, mutation.by_reason(found))]
    assert told[2:6] == [
        "| `ranges/` | 2 | 1 | 0 | 0 | 1 | 50.0% |",
        "| `interventions/` | 1 | 0 | 0 | 1 | 0 | 100.0% |",
        "| `evaluation/` | 1 | 0 | 0 | 1 | 0 | 100.0% |",
        "| all | 4 | 1 | 0 | 2 | 1 | 75.0% |",
    ]
    assert told[6:] == [
        "\n1 survive: it is as large",
        "  neuronlens.ranges.half.x_half__mutmut_1: -return value / 2 +return value * 2",
    ]
    reasons.write_text("reasons = []\n")
    assert None in mutation.by_reason(found)
    assert "\n1 survive: nobody has said why" in mutation.report(found, mutation.by_reason(found))
