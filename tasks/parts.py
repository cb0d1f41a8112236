"""Parts of a stage as Prefect task runs of their own, mapped over the flow's task runner."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.utilities.annotations import unmapped

from neuronlens.parts import PartMaker, raise_first

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
def make_part(name: str, maker: PartMaker) -> None:
    """One part."""
    maker(name)


def mapped(maker: PartMaker, names: Sequence[str]) -> None:
    """`neuronlens.parts.Mapper` within a flow."""

    def look(future: PrefectFuture[None]) -> None:
        if _error(future) is not None:
            maker.flag.give_up()

    try:
        futures = make_part.map([*names], unmapped(maker))
        for future in futures:
            future.add_done_callback(look)
        wait(futures)
    except BaseException:  # this thread was interrupted
        maker.flag.give_up()
        raise
    raise_first(_error(future) for future in futures)


def _error(future: PrefectFuture[None]) -> BaseException | None:
    """What a future that is done raised. (Its state is asked of the server, which may not have heard of the end yet.)"""
    try:
        found: object = future.result(raise_on_failure=False)
    except CancelledError as error:  # before it began, since the run is ending
        return error
    return found if isinstance(found, BaseException) else None
