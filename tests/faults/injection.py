"""What a run writes, moves and reads is watched in its own process, and at one moment something goes wrong."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, Any
from unittest.mock import patch

import pyarrow.parquet as pq

import neuronlens.comparison.document
from neuronlens import artifact, parts
from neuronlens.activations import extract
from neuronlens.evaluation import sweep
from neuronlens.stages import STAGES
from tasks.audits import bring_up_to_date
from tasks.versioning import workspace
from tests.faults.cells import COMPARE, PAGE, Cell

ERRORS = {"no-space": errno.ENOSPC, "no-permission": errno.EACCES, "read-error": errno.EIO}
TEMPORARY = {PAGE: ".index.html."}

FRESH, RECORD = artifact.fresh_folder, workspace.record
WRITE_TABLE, READ_TABLE = pq.write_table, pq.read_table
WRITE_TEXT, READ_TEXT, OPEN, RENAME, REPLACE = Path.write_text, Path.read_text, Path.open, Path.rename, Path.replace
MAKE = parts.PartMaker.__call__


@dataclass
class Injection:
    """One fault of one process.

    Attributes:
        cell: which.
        fired: a file that is there as soon as it has happened.
    """

    cell: Cell
    fired: Path
    _lock: Any = field(default_factory=Lock)
    _entered: bool = False  # the stage has begun, and
    _left: bool = False  # it has ended
    _locking: bool = False  # it is being written into dvc.lock

    def start(self) -> None:
        """For the rest of this process."""
        for target, name, instead in (
            (artifact, "fresh_folder", self.fresh_folder),
            (neuronlens.comparison.document, "fresh_folder", self.fresh_folder),
            (pq, "write_table", self.write_table),
            (pq, "read_table", self.read_table),
            (workspace, "record", self.record),
        ):
            patch.object(target, name, instead).start()
        # these are methods, and get the path first
        for name, method in (
            ("write_text", self.write_text),
            ("read_text", self.read_text),
            ("open", self.open),
            ("rename", self.rename),
            ("replace", self.replace),
        ):
            patch.object(Path, name, _as_method(method)).start()

    def _fire(self, path: Path) -> None:
        """It goes wrong. (A signal is only told of; the thread that was to be interrupted may be another one.)"""
        with self._lock:
            if self.fired.exists():
                if self.cell.fault in ERRORS or self.cell.fault == "memory":
                    self._raise(path)  # what is lacking once is lacking for every thread
                return
            os.close(os.open(self.fired, os.O_CREAT | os.O_WRONLY))
        if self.cell.fault in ("SIGKILL", "SIGTERM", "SIGINT"):
            os.kill(os.getpid(), getattr(signal, self.cell.fault))
        else:
            self._raise(path)

    def _raise(self, path: Path) -> None:
        if self.cell.fault == "memory":
            raise MemoryError
        number = ERRORS[self.cell.fault]
        raise OSError(number, os.strerror(number), str(path))

    def _writes(self, path: Path) -> bool:
        """Whether it goes wrong amid this file."""
        stage, moment = self.cell.stage, self.cell.moment
        if self.cell.fault == "read-error":
            return False
        if stage == PAGE:
            return moment == "during" and path.name.startswith(TEMPORARY[PAGE])
        below = _first_hidden(path)
        if moment == "part":
            return below.startswith(f".{stage}.parts-") and _whole_parts(path, below) > 0
        if moment not in ("during", "described") or not below.startswith(f".{stage}.tmp-"):
            return False
        return (path.name == artifact.MANIFEST) == (moment == "described") and path.name != artifact.TIMING

    def _reads(self, path: Path) -> bool:
        stage, moment = self.cell.stage, self.cell.moment
        if self.cell.fault != "read-error":
            return False
        if moment == "after":
            return self._left and path.parent.name == stage
        if moment == "during":
            return _first_hidden(path).startswith(f".{stage}.tmp-")
        if stage == "prepare":
            return path.name == "data.csv"
        before = ("report", "evaluate") if stage == COMPARE else STAGES[stage].needs
        return (self._entered or stage == COMPARE) and path.parent.name in before

    @contextmanager
    def fresh_folder(self, out: Path) -> Iterator[Path]:
        """`neuronlens.artifact.fresh_folder`."""
        own = out.name == self.cell.stage
        if own:
            self._entered = True
            if self.cell.moment == "before" and self.cell.fault != "read-error":
                self._fire(out)
        with FRESH(out) as folder:
            yield folder
        if own:
            self._left = True
            if self.cell.moment == "after" and self.cell.fault != "read-error":
                self._fire(out)

    def record(self, stage: Any) -> None:
        """`tasks.versioning.records.record`."""
        if stage.name != self.cell.stage:
            RECORD(stage)
            return
        if self.cell.moment == "recorded":
            self._fire(Path(stage.outs[0].fs_path))
        self._locking = self.cell.moment == "locked"
        RECORD(stage)
        self._locking = False

    def write_table(self, table: Any, where: Any, **arguments: Any) -> None:
        """`pyarrow.parquet.write_table`."""
        WRITE_TABLE(table, where, **arguments)
        if self._writes(Path(where)):
            os.truncate(where, Path(where).stat().st_size // 2)
            self._fire(Path(where))
            WRITE_TABLE(table, where, **arguments)

    def write_text(self, path: Path, text: str, *more: Any, **arguments: Any) -> int:
        """`Path.write_text`."""
        if self._writes(path) or (self._locking and "dvc.lock" in path.name):
            WRITE_TEXT(path, text[: len(text) // 2], *more, **arguments)
            self._fire(path)
        return WRITE_TEXT(path, text, *more, **arguments)

    def read_table(self, where: Any, **arguments: Any) -> Any:
        """`pyarrow.parquet.read_table`."""
        if self._reads(Path(where)):
            self._fire(Path(where))
        return READ_TABLE(where, **arguments)

    def read_text(self, path: Path, *more: Any, **arguments: Any) -> str:
        """`Path.read_text`."""
        if self._reads(path):
            self._fire(path)
        return READ_TEXT(path, *more, **arguments)

    def open(self, path: Path, mode: str = "r", *more: Any, **arguments: Any) -> IO[Any]:
        """`Path.open`."""
        if mode == "rb" and self._reads(path):
            self._fire(path)
        return OPEN(path, mode, *more, **arguments)

    def rename(self, path: Path, target: Path) -> Path:
        """`Path.rename`."""
        new = not path.name.endswith("-old")  # which an error puts back
        if new and self.cell.moment == "exchanged" and Path(target).name == self.cell.stage:
            self._fire(Path(target))
        return RENAME(path, target)

    def replace(self, path: Path, target: Path) -> Path:
        """`Path.replace`."""
        if self.cell == Cell(self.cell.fault, PAGE, "exchanged") and path.name.startswith(TEMPORARY[PAGE]):
            self._fire(Path(target))
        return REPLACE(path, target)


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(path: Path, *arguments: Any, **named: Any) -> Any:
        return function(path, *arguments, **named)

    return method


def _first_hidden(path: Path) -> str:
    """The temporary folder of a stage that a file lies in, or its folder of parts; empty where it lies in none."""
    return next((name for name in path.parts if name.startswith(".") and (".tmp-" in name or ".parts-" in name)), "")


def _whole_parts(path: Path, below: str) -> int:
    folder = Path(*path.parts[: path.parts.index(below) + 1])
    return sum(not part.name.startswith(".") for part in folder.iterdir())


def note_parts(told: Path) -> None:
    """Parts that have been made are told in a file, by this process and its children."""

    def noted(maker: parts.PartMaker, name: str) -> None:
        if artifact.is_intact(maker.folder / name):
            return
        MAKE(maker, name)
        with OPEN(told, "a") as file:
            file.write(f"{maker.folder.name.split('-')[0]} {name}\n")

    patch.object(parts.PartMaker, "__call__", noted).start()


def mortal_workers(cell: Cell, fired: Path) -> None:
    """Parts are made by processes of their own, as a cluster does. The first of the stage's is killed, or each (`always`); who had its
    part does it anew, and after the second death in a row the part has failed.
    """

    def work(maker: parts.PartMaker, name: str, *, dies: bool) -> None:
        if dies and cell.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if dies and cell.moment in ("during", "always"):
            half = Injection(Cell("SIGKILL", cell.stage, "part"), fired.with_name(f"worker-{os.getpid()}"))
            # every path is one of a write, so that it dies amid the first; a method of one object is replaced, which mypy refuses
            half._writes = bool  # type: ignore[assignment]
            half.start()
        maker(name)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def mapper(maker: parts.PartMaker, names: Sequence[str]) -> None:
        own = maker.folder.name.startswith(f".{cell.stage}.")
        sent = pickle.dumps(maker.at(maker.places, maker.folder.resolve()))
        for name in names:
            for _ in range(2):
                dies = own and (cell.moment == "always" or not fired.exists())
                worker = os.fork()
                if not worker:
                    try:
                        for held in (extract._held, sweep._held):
                            held.clear()  # a process elsewhere has planned nothing yet
                        work(pickle.loads(sent), name, dies=dies)
                        os._exit(0)
                    finally:
                        os._exit(1)
                ended = os.waitpid(worker, 0)[1]
                if dies:
                    fired.touch()
                if not ended:
                    break
            else:
                raise artifact.ArtifactError(f"{name} ended one worker after another")

    patch("flows.engine.bring_up_to_date", partial(bring_up_to_date, mapper=mapper)).start()
