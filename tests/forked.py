"""Processes that need not import anything: forked from one that has imported what a short audit takes, which is most of what it costs.

The process that is forked from does nothing else: threads that it had started would be missing in its children.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TextIO

import pytest


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def neuronlens(words: Sequence[str]) -> int:
    """The command line."""
    from flows.cli import main

    return main(words)


def dvc(root: Path, *words: str) -> str:
    """What the command line of DVC prints in a workspace."""
    done = Forked(_dvc, words, root, {"DVC_NO_ANALYTICS": "true"})
    out, err = done.communicate()
    assert done.returncode == 0, err
    return out


def _dvc(words: Sequence[str]) -> int:
    from dvc.cli import main

    code: int = main([*words])
    return code


class Forked:
    """A function in a process of its own, which is asked as `subprocess.Popen` is.

    Attributes:
        stdout: what it writes there, line by line.
        returncode: None as long as nobody has waited for its end.
    """

    def __init__(
        self,
        function: Callable[[Sequence[str]], int],
        words: Sequence[str],
        root: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            function: of a module, by which it is found again; its result is the exit code.
            words: what it is given.
            root: its current folder.
            environment: beside that of this process. What was read while modules were imported stays as it was.
        """
        self.args, self.returncode = words, None
        (out, write_out), (err, write_err) = os.pipe(), os.pipe()
        self.stdout, self._stderr = (os.fdopen(end, encoding="utf-8", errors="replace") for end in (out, err))
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # for the first one, by which the process is started that is forked from
            patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
            patch.setenv("OMP_NUM_THREADS", "1")
            # what is freed in one thread's arena or pool is not given to another, which would pass for a need of memory
            patch.setenv("MALLOC_ARENA_MAX", "1")
            patch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
            streams = _Streams(write_out, write_err)
            arguments = (function, [*words], root, {**os.environ, **(environment or {})}, streams)
            self._process: Any = _context().Process(target=_enter, args=arguments)
            self._process.start()
        os.close(write_out)
        os.close(write_err)
        self._complaints = _Reading(self._stderr)
        self.pid = int(self._process.pid)

    def send_signal(self, told: int) -> None:
        """Send it."""
        os.kill(self.pid, told)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or less than 0 for the signal that has ended it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired([*self.args], timeout or 0)
        self.returncode = int(self._process.exitcode)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has written to stdout (and nobody has read) and to stderr, when it has ended."""
        told = _Reading(self.stdout)
        self.wait(timeout)
        return told.text(), self._complaints.text()


class _Reading:
    """A stream that is read to its end meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        self._found: list[str] = []
        self._thread = threading.Thread(target=lambda: self._found.append(stream.read()), daemon=True)
        self._thread.start()

    def text(self) -> str:
        """All of it."""
        self._thread.join()
        return self._found[0]


class _Streams:
    """Where a process writes to: descriptors, handed over as it starts."""

    def __init__(self, *descriptors: int) -> None:
        self.handed = [DupFd(descriptor) for descriptor in descriptors]

    def take(self) -> None:
        """Write there from now on."""
        for place, descriptor in enumerate(self.handed, start=1):
            given = descriptor.detach()
            os.dup2(given, place)
            os.close(given)


def _enter(
    function: Callable[[Sequence[str]], int],
    words: Sequence[str],
    root: Path,
    environment: dict[str, str],
    streams: Any,
) -> None:
    """What the process does."""
    streams.take()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(root)
    sys.argv = ["neuronlens", *words]
    try:
        sys.exit(function(words))
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
