"""One input after another is given to a verb or a function, and counted; whatever it is, it is read, or refused in a line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings

from flows.cli import main
from neuronlens.errors import NeuronLensError

PROFILE = os.environ.get("NEURONLENS_FUZZ", "ci")
PROMISED = {"ci": 200, "thorough": 10_000}[PROFILE]
_CODES = {0, 1, 2, 3, 4}  # 130 is an interruption, which nothing that is read can cause


def often(few: int, many: int) -> settings:
    """So many inputs in the small profile, and so many in the thorough one."""
    return settings(
        max_examples=few if PROFILE == "ci" else many,
        deadline=None,
        database=None,
        derandomize=PROFILE == "ci",  # what changes from run to run belongs to the profile that somebody looks at
        suppress_health_check=list(HealthCheck),
    )


class Tried:
    """Counts inputs."""

    def __init__(self) -> None:
        self.count = 0

    def assert_told(self, *lines: Sequence[str | Path], place: str = "") -> None:
        """Run verbs on one input: each does its work, or refuses it by an exit code of its own and in one printable line.

        Args:
            place: what a refusal has to name.
        """
        self.count += 1
        for line in lines:
            code, told = run([*map(str, line)])
            assert code in _CODES, (line, code, told)
            assert "Traceback" not in told, (line, told)
            complaints = [each for each in told.splitlines() if each.startswith("neuronlens: ")]
            assert len(complaints) == (code in (2, 3)), (line, code, told)
            assert all(each.isprintable() for each in told.split("\n")), (line, told)
            assert all(place in each for each in complaints), (line, told)

    def assert_read_or_refused(self, read: Callable[[], object], place: str = "", *, again: bool = False) -> None:
        """Call what reads one input: it returns, or raises an error of ours that is one printable line.

        Args:
            again: it is no other input than the one before.
        """
        self.count += not again
        try:
            read()
        except NeuronLensError as error:
            assert error.exit_code in _CODES
            assert str(error).isprintable(), error
            assert place in str(error), error


def run(line: Sequence[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line, within this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line)
    raw = err.buffer
    assert isinstance(raw, io.BytesIO)
    return code, raw.getvalue().decode()
