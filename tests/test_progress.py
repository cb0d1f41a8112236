"""Progress: the same items, a line on stderr where it takes long, silence where it does not."""

from __future__ import annotations

import itertools
import time

import pytest

from neuronlens import progress
from neuronlens.progress import track


@pytest.fixture
def clock(monkeypatch):
    """Time that advances by a second a look."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def test_the_items_pass_unchanged_and_lazily():
    seen = []
    tracked = track((seen.append(item) or item for item in range(3)), 3, "rows")
    assert next(tracked) == 0
    assert seen == [0]
    assert list(tracked) == [1, 2]


def test_what_is_quick_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 1e9)
    assert list(track(range(100), 100, "rows")) == list(range(100))
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("clock")
def test_what_takes_long_says_so_now_and_then(capsys):
    list(track(range(30), 30, "rows"))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "rows: 1 of 30"
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("rows: ") and line.endswith(" of 30") for line in lines)


def test_an_error_of_the_caller_is_passed_on():
    def broken():
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        list(track(broken(), 2, "rows"))
