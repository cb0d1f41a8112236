"""The writer: puts shards on the disk while the model runs the next batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

_WAITING = 2


class ShardWriter:
    """Context manager that does jobs one after the other on a thread of its own, in the order in which they were given.

    At most two are not done yet, so that memory stays bounded where the disk is slower than the model. What a job raises comes out of
    `submit` or of the end of the block, as it was raised, and no later job is done. When the block fails, jobs that have not begun are
    dropped. After the block no job is running.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "shards")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, job: Callable[[], None]) -> None:
        """Do a job soon; waits while two are waiting."""
        while self._waiting and (len(self._waiting) >= _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(job))
