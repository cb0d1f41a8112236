"""Parts of a stage's work that outlive an interruption: folders that appear whole, found again by the next run of the same stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Generic, Protocol, TypeVar, runtime_checkable

from neuronlens import artifact
from neuronlens.errors import NeuronLensError

T = TypeVar("T")

Job = Callable[[str, Path], Mapping[str, object]]
"""Makes the part of a name in an empty folder; returns facts about it. It can be pickled, and any process may be the one that runs it."""


@runtime_checkable
class Movable(Protocol):
    """A job that can be done where what it reads lies elsewhere."""

    @property
    def places(self) -> Mapping[str, Path]:
        """Name -> file or folder of this machine that it reads, absolute."""
        ...

    def at(self, places: Mapping[str, Path]) -> Job:
        """The same job in a process of its own, for which these things lie elsewhere."""
        ...


AT_ONCE = 2  # one writes what it has read while another reads on


class GivenUpError(NeuronLensError):
    """Another part has failed, so that nobody will need this one."""


class Flag:
    """Whether parts are still wanted. A copy for another process knows nothing of what happens here."""

    def __init__(self) -> None:
        self._event = Event()

    def __reduce__(self) -> tuple[type[Flag], tuple[()]]:
        return Flag, ()

    def give_up(self) -> None:
        """They are not."""
        self._event.set()

    def check(self) -> None:
        """Ask.

        Raises:
            GivenUpError: they are not.
        """
        if self._event.is_set():
            raise GivenUpError("another part has failed")


_flag: ContextVar[Flag | None] = ContextVar("flag", default=None)


def go_on() -> None:
    """Asked in the middle of a part.

    Raises:
        GivenUpError: there is no use in going on.
    """
    flag = _flag.get()
    if flag is not None:
        flag.check()


@dataclass(frozen=True)
class PartMaker:
    """Makes parts. It can be pickled where the job can.

    Attributes:
        folder: of all parts.
        job: makes one.
        flag: raised by who runs them when one has failed for good, so that others end soon.
    """

    folder: Path
    job: Job
    flag: Flag = field(default_factory=Flag)

    def __call__(self, name: str) -> None:
        """Make the part of a name."""
        token = _flag.set(self.flag)
        try:
            self.flag.check()
            if artifact.is_intact(
                self.folder / name
            ):  # a cluster has a part made again when who made it dies before it is asked
                return
            with artifact.fresh_folder(self.folder / name) as out:
                facts = self.job(name, out)
                artifact.write_manifest(out, stage=name, method=0, inputs={}, params={}, facts=facts)
        except OSError:
            if not artifact.is_intact(self.folder / name):  # a worker that was given up for dead was quicker
                raise
        finally:
            _flag.reset(token)

    @property
    def places(self) -> Mapping[str, Path]:
        """Name -> what the job reads on this machine.

        Raises:
            TypeError: it cannot be done elsewhere.
        """
        return self._movable.places

    def at(self, places: Mapping[str, Path], folder: Path) -> PartMaker:
        """The same in another process, which has what it reads and where it writes in other places.

        Args:
            places: name -> where it lies there.
            folder: of all parts there.
        """
        return replace(self, folder=folder, job=self._movable.at(places), flag=Flag())

    @property
    def _movable(self) -> Movable:
        if not isinstance(self.job, Movable):
            raise TypeError(f"{self.job!r} can be done in this process only")
        return self.job


Mapper = Callable[[PartMaker, Sequence[str]], None]
"""Has each of some parts made, in any order and perhaps at once; raises what one of them raised."""


def in_threads(maker: PartMaker, names: Sequence[str]) -> None:
    """Two at a time, started in their order."""

    def make(name: str) -> None:
        try:
            maker(name)
        except BaseException:
            maker.flag.give_up()
            raise

    with ThreadPoolExecutor(AT_ONCE, "parts") as pool:
        running = [pool.submit(make, name) for name in names]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
            raise_first(future.exception() for future in running if future.done())
        finally:  # also where this thread is interrupted
            maker.flag.give_up()
            pool.shutdown(wait=True, cancel_futures=True)


def raise_first(errors: Iterable[BaseException | None]) -> None:
    """Raise the error that is to blame, if there is one: that others gave up follows from it."""
    found = [error for error in errors if error is not None]
    for error in found:
        if not isinstance(error, (GivenUpError, CancelledError)):
            raise error
    for error in found:
        raise error


@dataclass(frozen=True)
class Parts:
    """Where a stage's parts lie, and who makes them.

    Attributes:
        folder: beside the artifact that they make up.
        mapper: how several are made.
    """

    folder: Path
    mapper: Mapper = in_threads

    @classmethod
    def of(cls, out: Path, key: str, mapper: Mapper = in_threads) -> Parts:
        """The parts of the artifact `out`. Those of other keys are leftovers of a run that was given up, and are removed.

        Args:
            key: of everything that decides what is in them.
        """
        folder = out.with_name(f".{out.name}.parts-{key[:16]}")
        cls.clear_all(out, but=folder)
        return cls(folder, mapper)

    @staticmethod
    def clear_all(out: Path, but: Path | None = None) -> None:
        """Remove all parts of the artifact `out`, but those in one folder."""
        for folder in out.parent.glob(f".{out.name}.parts-*"):
            if folder != but:
                shutil.rmtree(folder, ignore_errors=True)

    def make(self, names: Sequence[str], job: Job) -> dict[str, Path]:
        """Make those parts that are not there yet.

        Returns:
            name -> its folder, whole.
        """
        found = {name: self.folder / name for name in names}
        missing = [name for name in names if not artifact.is_intact(found[name])]
        if missing:
            self.mapper(PartMaker(self.folder, job), missing)
        return found

    def clear(self) -> None:
        """Remove them: the artifact is there."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Held(Generic[T]):
    """One value, held in this process between the parts that need it: planning is too dear to be done for each."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: tuple[object, T] | None = None

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of a key; another one's is let go."""
        with self._lock:
            if self._known is None or self._known[0] != key:
                self._known = None
                self._known = key, make()
            return self._known[1]

    def clear(self) -> None:
        """Let go."""
        with self._lock:
            self._known = None


def check_planned(name: str, planned: Sequence[str]) -> None:
    """Refuse a part that was planned on a machine of another kind: names hold whatever decides how the work is cut and what its bits are.

    Raises:
        NeuronLensError: it was.
    """
    if name not in planned:
        raise NeuronLensError(
            f"{name} is planned otherwise here ({planned[0] if planned else 'not at all'}): workers need the device and the memory of the "
            "machine that runs the audit. Run it on one of theirs, or fix extract.batch_tokens where only memory differs."
        )


def link_files(folder: Path, names: Iterable[str | Path], out: Path) -> None:
    """Put files of a part into an artifact without taking them from the part, which must stay whole until the artifact is there."""
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        link(folder / name, target)


def link(file: Path, target: Path) -> None:
    """The same file at another place too, which does not exist yet."""
    try:
        target.hardlink_to(file)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)
