"""Who makes the parts of a stage: threads of this process, processes of this machine, or the workers of a Dask cluster.

All of them run the same Prefect task, `tasks.parts.make_part`, and what they make has the same bits: a part is made from what the stage
reads and from nothing that another part leaves behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, cast

from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import unmapped

from neuronlens.config import RunnerParams
from neuronlens.errors import ConfigError, NeuronLensError, UserError, redacted
from neuronlens.parts import AT_ONCE, PartMaker, raise_first
from tasks.environment import set_environment
from tasks.parts import error_of, make_part
from tasks.store import Shipped, Store

_DEATHS = 3  # of workers, before a part is taken to be what kills them


class Pool:
    """Makes parts, for as long as its block lasts. What it needs is started by the first part."""

    def __init__(self, params: RunnerParams) -> None:
        self._params = params
        self._stack = ExitStack()
        self._runner: TaskRunner[Any] | None = None
        self._processes: list[_Process] = []

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
        elif self._params.kind == "processes":
            self._deal(maker.at(maker.places, maker.folder.resolve()), names)
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
        raise_first(_in_words(error_of(future)) for future in futures)

    def _started(self) -> TaskRunner[Any]:
        if self._runner is None:
            runner: TaskRunner[Any] = (
                ThreadPoolTaskRunner(max_workers=AT_ONCE) if self._params.kind == "threads" else _dask(self._params)
            )
            self._runner = self._stack.enter_context(runner)
            if self._params.kind == "dask":
                _connect(runner, self._params.address)
        return self._runner

    def _threads(self) -> int | None:
        """Of torch, that workers compute with: as many as this process, so that it does not matter who makes a part."""
        if self._params.kind == "threads":
            return None
        import torch

        return torch.get_num_threads()

    def _deal(self, maker: PartMaker, names: Sequence[str]) -> None:
        """One after another to whichever process is free. One that dies costs the part that it was making, which another one makes."""
        if not self._processes:
            cards = cards_here()
            count = self._params.workers or max(len(cards), AT_ONCE)
            self._processes = [
                self._stack.enter_context(_Process(cards[i % len(cards)] if cards else None)) for i in range(count)
            ]
        left: SimpleQueue[str] = SimpleQueue()
        for name in names:
            left.put(name)
        given_up = Event()

        def serve(process: _Process) -> None:
            try:
                while not given_up.is_set():
                    process.make({"name": left.get_nowait(), "maker": maker, "threads": self._threads()})
            except Empty:
                return
            except BaseException:
                given_up.set()
                raise

        with ThreadPoolExecutor(len(self._processes), "processes") as threads_here:
            served = [threads_here.submit(copy_context().run, serve, process) for process in self._processes]
            try:
                errors = [future.exception() for future in served]
            except BaseException:  # this thread was interrupted
                given_up.set()
                for process in self._processes:
                    process.end()
                raise
        raise_first(errors)


class _Process:
    """A process of its own, and the next one when it has died.

    Args:
        card: that it sees, None for all or none.
    """

    def __init__(self, card: str | None) -> None:
        self._card = card
        self._runner = self._new()

    def _new(self) -> ProcessPoolTaskRunner:
        return ProcessPoolTaskRunner(max_workers=1, initializer=_begin, initargs=(self._card,))

    def __enter__(self) -> _Process:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.__exit__(*error)

    def end(self) -> None:
        """Now, whatever it is doing."""
        self._runner.cancel_all()

    def make(self, told: dict[str, Any]) -> None:
        """Have a part made.

        Args:
            told: to `make_part`.

        Raises:
            NeuronLensError: it has ended one process after another.
        """
        for _ in range(_DEATHS):
            self._runner._cached_context = None  # of the first part's stage, below which all parts would be listed
            future = self._runner.submit(make_part, told)
            error = error_of(future)
            if error is None:
                return
            if not isinstance(error, BrokenProcessPool):
                raise error
            self._runner.__exit__(None, None, None)
            self._runner = self._new()
            self._runner.__enter__()
        raise _deadly(told["name"])


def _begin(card: str | None) -> None:
    """The first thing that a process does."""
    set_environment()
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card


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
            f"needs prefect-dask ({error})", where="runner.kind: dask", cure='pip install "neuronlens[dask]"'
        ) from None
    address = params.address or dask.config.get("scheduler-address", None)
    if address:
        return DaskTaskRunner(address=address)
    workers = {"n_workers": params.workers or AT_ONCE, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=workers)


def _connect(runner: Any, address: str | None) -> None:
    """Find the cluster before anything is given to it, and workers that find Prefect.

    Raises:
        NeuronLensError: it does not answer, or has no workers that could.
    """
    try:
        client = runner.client
        workers = client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise NeuronLensError(
            f"no Dask scheduler answers at {redacted(address or runner.address or 'this machine')} ({text[:200]}). "
            "Start one (dask scheduler), or name it with runner.address."
        ) from error
    if not workers:
        raise NeuronLensError(
            f"the Dask scheduler at {client.scheduler.address} has no workers. "
            f"Start some: dask worker {client.scheduler.address} --nthreads 1"
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
        raise UserError(
            f"workers on {away[0]} cannot reach the Prefect server of this machine",
            where="PREFECT_API_URL",
            cure="Name one by an address that they can reach: prefect server start --host 0.0.0.0 starts it.",
        )


def _cancel(future: PrefectFuture[Any]) -> None:
    """One that has not begun."""
    wrapped: Any = getattr(future, "wrapped_future", None)
    if wrapped is not None and not wrapped.done():
        wrapped.cancel()


def _in_words(error: BaseException | None) -> BaseException | None:
    """What Dask says where a part has ended one worker after another."""
    return _deadly("a part") if type(error).__name__ == "KilledWorker" else error


def _deadly(name: str) -> NeuronLensError:
    return NeuronLensError(
        f"{name} ended {_DEATHS} workers, one after another. The system's log says how; often it is memory: --set extract.batch_tokens=256."
    )
