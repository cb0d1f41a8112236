"""Who makes the parts of a stage: threads of this process, processes of this machine, or the workers of a Dask cluster elsewhere.

All of them run the same Prefect task, `tasks.parts.make_part`, and what they make has the same bits: a part is made from what the stage
reads and from nothing that another part leaves behind. Processes of this machine are a Dask cluster, too: of those that Python and Prefect
have, a pool dies as a whole with one of its members, and may then keep the run from ending.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast

from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import unmapped

from neuronlens.config import RunnerParams
from neuronlens.errors import ConfigError, NeuronLensError, UnreachableError, redacted
from neuronlens.parts import AT_ONCE, PartMaker, raise_first
from tasks.parts import error_of, make_part
from tasks.store import Shipped, Store


class Pool:
    """Makes parts, for as long as its block lasts. What it needs is started by the first part."""

    def __init__(self, params: RunnerParams) -> None:
        self._params = params
        self._stack = ExitStack()
        self._runner: TaskRunner[Any] | None = None

    def __reduce__(self) -> tuple[type[Pool], tuple[RunnerParams]]:
        """Prefect sends a stage's parameters along with its parts: without what was started here."""
        return Pool, (self._params,)

    def __enter__(self) -> Pool:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def __call__(self, maker: PartMaker, names: Sequence[str]) -> None:
        """`neuronlens.parts.Mapper` within a flow."""
        if self._params.kind == "threads":
            self._submit(maker, names)
        elif self._params.store is None:
            self._submit(maker.at(maker.places, maker.folder.resolve()), names)
        else:
            with Shipped.to(Store(self._params.store), maker) as shipped:
                missing = shipped.bring(names)
                self._submit(shipped, missing)
                shipped.bring(missing)

    def _submit(self, maker: PartMaker | Shipped, names: Sequence[str]) -> None:
        """All at once, to a runner that knows whom to give them to."""

        def look(future: PrefectFuture[None]) -> None:
            if error_of(future) is not None:
                maker.flag.give_up()
                for other in futures:
                    _cancel(other)

        runner, part = self._started(), cast(Any, make_part)
        futures: list[PrefectFuture[None]] = []
        try:
            futures = [
                *runner.map(part, {"name": [*names], "maker": unmapped(maker), "threads": unmapped(self._threads())})
            ]
            for future in futures:
                future.add_done_callback(look)
            wait(futures)
        except BaseException:  # this thread was interrupted
            maker.flag.give_up()
            for future in futures:
                _cancel(future)
            raise
        raise_first(_in_words(name, error_of(future)) for name, future in zip(names, futures, strict=True))

    def _started(self) -> TaskRunner[Any]:
        if self._runner is None:
            runner: TaskRunner[Any] = (
                ThreadPoolTaskRunner(max_workers=AT_ONCE) if self._params.kind == "threads" else _dask(self._params)
            )
            self._runner = self._stack.enter_context(runner)
            if self._params.kind != "threads":
                _connect(runner, self._params.address)
        return self._runner

    def _threads(self) -> int | None:
        """Of torch, that workers compute with: as many as this process, so that it does not matter who makes a part."""
        if self._params.kind == "threads":
            return None
        import torch

        return torch.get_num_threads()


def cards_here() -> list[str]:
    """The accelerators that this process may use, in the words of CUDA_VISIBLE_DEVICES."""
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    known = [name for name in told.split(",") if name] if told else [str(i) for i in range(count)]
    return known[:count]


def _dask(params: RunnerParams) -> TaskRunner[Any]:
    try:
        import dask
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"needs prefect-dask ({error})", where=f"runner.kind: {params.kind}", cure='pip install "neuronlens[dask]"'
        ) from None
    address = params.kind == "dask" and (params.address or dask.config.get("scheduler-address", None))
    if address:
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(cluster_class=cast(Any, _cluster), cluster_kwargs={"count": params.workers})


def _cluster(count: int | None) -> Any:
    """One on this machine. Each worker is a process that computes one part at a time, and sees one card where there are several."""
    from distributed import Nanny, Scheduler, SpecCluster

    cards = cards_here()
    seen = [{"CUDA_VISIBLE_DEVICES": card} for card in cards] or [{}]
    told = [
        {"nthreads": 1, "dashboard": False, "env": seen[i % len(seen)]}
        for i in range(count or max(len(cards), AT_ONCE))
    ]
    return SpecCluster(
        workers={i: {"cls": Nanny, "options": options} for i, options in enumerate(told)},
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}},
    )


def _connect(runner: Any, address: str | None) -> None:
    """Find the cluster before anything is given to it, and workers that find Prefect.

    Raises:
        UnreachableError: it does not answer, or has no workers that could.
    """
    try:
        client = runner.client
        workers = client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UnreachableError(
            f"no Dask scheduler answers at {redacted(address or runner.address or 'this machine')} ({text[:200]})",
            where="runner.address",
            cure="Start one (dask scheduler), or name the one that runs.",
        ) from error
    if not workers:
        address = client.scheduler.address
        raise UnreachableError(
            f"the Dask scheduler at {address} has no workers",
            where="runner.address",
            cure=f"Start some: dask worker {address} --nthreads 1",
        )
    _check_reachable([worker["host"] for worker in workers.values()])


def _check_reachable(hosts: Sequence[str]) -> None:
    from socket import AF_INET, AF_INET6
    from urllib.parse import urlsplit

    import psutil
    from prefect.settings import PREFECT_API_URL

    own = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (AF_INET, AF_INET6)
    }
    away = sorted({*hosts} - own - {"localhost"})
    server = PREFECT_API_URL.value() or ""
    if away and urlsplit(server).hostname in ("127.0.0.1", "localhost", "::1", None):
        raise UnreachableError(
            f"workers on {away[0]} cannot reach the Prefect server of this machine",
            where="PREFECT_API_URL",
            cure="Name one by an address that they can reach: prefect server start --host 0.0.0.0 starts it.",
        )


def _cancel(future: PrefectFuture[Any]) -> None:
    """One that has not begun."""
    wrapped: Any = getattr(future, "wrapped_future", None)
    if wrapped is not None and not wrapped.done():
        wrapped.cancel()


def _in_words(name: str, error: BaseException | None) -> BaseException | None:
    """What Dask says of a part that has ended one worker after another."""
    if type(error).__name__ != "KilledWorker":
        return error
    return NeuronLensError(
        f"{name} ended one worker after another. The system's log says how; often it is memory: --set extract.batch_tokens=256."
    )
