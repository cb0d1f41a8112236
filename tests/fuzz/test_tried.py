"""What the other tests of this folder hold every answer to would be noticed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from neuronlens.errors import UserError
from tests.fuzz import tried
from tests.fuzz.tried import Tried


def answering(code: int, told: str) -> Callable[..., int]:
    def main(_: Any) -> int:
        sys.stderr.write(told)
        return code

    return main


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (7, ""),
        (130, "neuronlens: interrupted\n"),
        (1, "Traceback (most recent call last):\n"),
        (2, ""),
        (2, "neuronlens: a.csv: one\nneuronlens: a.csv: two\n"),
        (0, "neuronlens: a.csv: a complaint beside success\n"),
        (3, "neuronlens: a.csv: \x1b[31mred\n"),
        (2, "neuronlens: a mistake that is nowhere\n"),
    ],
)
def test_a_wrong_answer_of_a_verb_is_noticed(monkeypatch: pytest.MonkeyPatch, code: int, told: str) -> None:
    monkeypatch.setattr(tried, "main", answering(code, told))
    with pytest.raises(AssertionError):
        Tried().assert_told(["show"], place="a.csv")
    monkeypatch.setattr(tried, "main", answering(2, "neuronlens: a.csv: no such file\n"))
    Tried().assert_told(["show"], place="a.csv")


@pytest.mark.parametrize("error", [KeyError("a"), UserError("is \x07 rung"), UserError("is nowhere")])
def test_a_wrong_answer_of_a_function_is_noticed(error: Exception) -> None:
    def read() -> None:
        raise error

    with pytest.raises((AssertionError, KeyError)):
        Tried().assert_read_or_refused(read, "a.csv")
