"""Counts what was tried, and tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.tried import PROFILE, PROMISED, Tried
from tests.golden.make import AUDIT, thawed

_EXAMPLES = "examples"


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Iterator[Tried]:
    """Runs and counts."""
    made = Tried()
    yield made
    record_property(_EXAMPLES, made.count)


@pytest.fixture
def audits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the current one, with the audits `before` and `after`, and nothing around it."""
    monkeypatch.chdir(thawed(AUDIT, tmp_path))
    return tmp_path


def _examples(reporter: pytest.TerminalReporter) -> int:
    reports = [report for name in ("passed", "failed") for report in reporter.stats.get(name, ())]
    return sum(value for report in reports for name, value in report.user_properties if name == _EXAMPLES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many inputs were tried."""
    count = _examples(terminalreporter)
    if count:
        terminalreporter.write_line(f"{count:,} inputs were tried (profile {PROFILE})")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The thorough profile keeps its promise, or fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        PROFILE == "thorough"
        and reporter is not None
        and session.config.option.keyword == ""
        and not session.config.option.collectonly
    ):
        count = _examples(reporter)
        whole = [*session.config.args] == ["tests/fuzz"]
        if whole and count < PROMISED and session.exitstatus == 0:
            reporter.write_line(f"{count:,} inputs are fewer than the {PROMISED:,} that are promised", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
