"""Parts of a stage as Prefect task runs of their own."""

from __future__ import annotations

import errno
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture

from neuronlens.parts import GivenUpError
from tasks.environment import set_environment

# What a network file system or a busy machine may get over by itself. Everything else fails the second time as well: a full disk, too
# little memory for a single row, a weight that is not a number, a bug.
_PASSING = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETUNREACH, errno.ECONNRESET}
_RETRIES = 2


def can_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether what failed may pass on a second try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and error.errno in _PASSING
    )


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=_RETRIES,
    retry_delay_seconds=2,
    retry_condition_fn=can_pass,
)
def make_part(name: str, maker: Callable[[str], None], threads: int | None = None) -> None:
    """One part, in whichever process this is.

    Args:
        threads: of torch that the process has to compute with. A product with a handful of rows has other bits on other numbers of them.
    """
    set_environment()  # a worker of a cluster has imported nothing yet that reads it
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    maker(name)


def error_of(future: PrefectFuture[Any]) -> BaseException | None:
    """What a future that is done raised. (Its state is asked of the server, which may not have heard of the end yet.)"""
    try:
        found: object = future.result(raise_on_failure=False)
    except (Exception, CancelledError) as error:  # of who was to run it; or before it began, since the run is ending
        return GivenUpError(str(error)) if isinstance(error, CancelledError) else error
    return found if isinstance(found, BaseException) else None
