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
    """What the fixture has recorded when it ended, which only the reports of that moment hold."""
    reports = [
        report for found in reporter.stats.values() for report in found if getattr(report, "when", "") == "teardown"
    ]
    return sum(value for report in reports for name, value in report.user_properties if name == _EXAMPLES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many inputs were tried."""
    count = _examples(terminalreporter)
    if count:
        terminalreporter.write_line(f"{count:,} inputs were tried (profile {PROFILE})")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """As many as are promised were tried, or the run fails; where a part of the folder is asked for, nothing is promised."""
    options, reporter = session.config.option, session.config.pluginmanager.get_plugin("terminalreporter")
    whole = [*session.config.args] == ["tests/fuzz"] and not (options.keyword or options.collectonly)
    if reporter is None or not whole or session.exitstatus != 0:
        return
    count = _examples(reporter)
    if count < PROMISED:
        reporter.write_line(f"{count:,} inputs are fewer than the {PROMISED:,} that are promised", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
