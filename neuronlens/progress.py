"""Progress of anything long: a bar on a terminal, a plain line now and then elsewhere, nothing at all for what is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import TypeVar

T = TypeVar("T")

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 10.0


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """The same items, telling on stderr how far the caller has come."""
    if sys.stderr.isatty():
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=label, delay=_QUIET_SECONDS, leave=False)
        return
    due = time.monotonic() + _QUIET_SECONDS
    for done, item in enumerate(items):
        if time.monotonic() >= due:
            sys.stderr.write(f"{label}: {done} of {total}\n")
            due = time.monotonic() + _LINE_SECONDS
        yield item


class Progress:
    """The same for what is not iterated over in one place; threads may share it."""

    def __init__(self, total: int, label: str) -> None:
        self._steps = track(iter(int, None), total, label)
        self._lock = Lock()

    def step(self) -> None:
        """One more is done."""
        with self._lock:
            next(self._steps)
