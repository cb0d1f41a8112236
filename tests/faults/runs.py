"""The command line in processes that are forked from one that has imported everything, and what such a run leaves behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from filelock import FileLock, Timeout

from flows.cli import main
from neuronlens.activations import store
from neuronlens.artifact import TIMING, finite, hash_value
from neuronlens.pages.drawing import Figure
from neuronlens.stages import STAGES
from tasks.versioning import LOCKS, Workspace
from tests.conftest import labelled, sentences
from tests.faults.injection import note_parts
from tests.models import save_checkpoint

AUDIT, COMPARED = "audits/one", "comparisons/compare"
_HEAVY = (
    "dvc.repo",
    "dvc.utils.strictyaml",
    "flows.console",
    "neuronlens.comparison.document",
    "neuronlens.evaluation.sweep",
    "neuronlens.plan",
    "neuronlens.ranges.fit",
    "neuronlens.report.page",
    "pandas",
    "pyarrow.csv",
    "ruamel.yaml",
    "tasks.around",
    "tasks.pages",
    "transformers",
)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; the negative number of a signal that killed it.
        out, err: what it said.
    """

    code: int
    out: str
    err: str

    @property
    def stages(self) -> dict[str, str]:
        """Stage -> what became of it, as it was told."""
        told = [line.split() for line in self.out.splitlines()]
        return {words[0]: words[1].rstrip(":") for words in told if words and words[0] in STAGES}

    @property
    def last(self) -> str:
        """The last line of its complaints."""
        return ["", *self.err.strip().splitlines()][-1]


def prepare_process(*, tracked: bool = False) -> None:
    """Import what a run imports, so that no child has to.

    What takes longer than all the rest of an audit, and has tests of its own, is left out: the renderer of charts, and MLflow.

    Args:
        tracked: MLflow is not left out.
    """
    torch.set_num_threads(1)
    for module in _HEAVY:
        import_module(module)
    with TemporaryDirectory() as folder:
        Workspace.create(Path(folder)).look([])  # DVC imports most of itself when it is used
    patch.object(Figure, "svg", _no_chart).start()
    if not tracked:
        patch("tasks.tracking.record", lambda *_, **__: None).start()
    patch.object(store, "_SHARD_BYTES", 4 * 24 * 4).start()  # a shard holds few rows, so that there are several


def _no_chart(figure: Figure) -> str:
    return f"<svg><text>{hash_value(finite(figure.data))}</text></svg>"


@dataclass(frozen=True)
class Runner:
    """Runs the command line on small data.

    Attributes:
        inputs: folder with gpt2/, data.csv and aux.txt.
    """

    inputs: Path

    @classmethod
    def on_new_data(cls, inputs: Path) -> Runner:
        """Make them."""
        save_checkpoint(inputs / "gpt2", "gpt2")
        rows = labelled(("finance", "health"), fit=4, validation=0, test=3)
        with (inputs / "data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "split"])
            writer.writerows(zip(rows.text, rows.concept, rows.split, strict=True))
        (inputs / "aux.txt").write_text("\n".join(sentences(4, seed=1)))
        return cls(inputs)

    def audit(self, data: str = "data.csv", *more: str) -> list[str]:
        """The words of an audit without Prefect into `AUDIT`."""
        told = {
            "checkpoint.path": self.inputs / "gpt2",
            "dataset.path": self.inputs / data,
            "evaluate.auxiliary": self.inputs / "aux.txt",
            "evaluate.bootstrap": 100,
            "extract.batch_tokens": 24,
            "fit.rows": "all",
            "fit.saliency": "mean_abs",
            "interventions.controls": [],
            "interventions.tau": 2.0,
            "interventions.top": 0.3,
            "interventions.tuned": "null",
        }
        sets = [word for name, value in told.items() for word in ("--set", f"{name}={value}")]
        return ["audit", "--no-flow", *sets, *(more or ("--out", AUDIT))]

    @staticmethod
    def compare() -> list[str]:
        """The words of a comparison into `COMPARED`."""
        return ["compare", AUDIT, AUDIT, "--out", COMPARED]

    def start(
        self, words: list[str], here: Path, begin: Callable[[], None] = lambda: None, told: Path | None = None
    ) -> int:
        """A child's pid.

        Args:
            here: its current folder.
            begin: is called first.
            told: what it says goes into files of this name with endings of their own; beside the folder unless told otherwise.
        """
        child = os.fork()
        if child:
            return child
        code = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(_told(told or here, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(here)
            note_parts((told or here).with_suffix(".parts"))
            begin()
            code = main(words)
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    @staticmethod
    def wait(child: int, here: Path) -> Ended:
        """For a child of this process, which has said what it said into files of this name."""
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ended(code, _told(here, "out").read_text(), _told(here, "err").read_text())

    def run(self, words: list[str], here: Path, begin: Callable[[], None] = lambda: None) -> Ended:
        """Both."""
        return self.wait(self.start(words, here, begin), here)


def _told(here: Path, name: str) -> Path:
    return here.with_name(f"{here.name}.{name}")


def artifacts(here: Path) -> dict[str, bytes]:
    """Path -> content of what stages and comparisons wrote, but for when."""
    places = [*(here / AUDIT / name for name in STAGES), here / COMPARED]
    return {
        str(path.relative_to(here)): path.read_bytes()
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name not in (TIMING, "index.html")
    }


def everything(here: Path) -> set[str]:
    """All paths, but those of DVC's own temporary folder and of its cache, whose names follow from hashes of times."""
    return {
        str(path.relative_to(here))
        for path in here.rglob("*")
        if not str(path.relative_to(here)).startswith((".dvc/tmp/", ".dvc/cache/"))
    }


def hidden(here: Path) -> list[str]:
    """Temporary folders and files, whole parts set aside: they are no leftovers of a run that goes on."""
    return sorted(name for name in everything(here) if ".tmp-" in name or "/.index.html." in name)


def held_locks(here: Path) -> Iterator[str]:
    """Locks of the workspace that somebody holds, and entries of DVC's own list."""
    for file in sorted((here / ".dvc" / LOCKS).glob("*.lock")):
        try:
            with FileLock(file, timeout=0):
                pass
        except Timeout:
            yield file.name
    rwlock = here / ".dvc/tmp/rwlock"
    if rwlock.is_file() and any((json.loads(rwlock.read_text() or "{}")).values()):
        yield rwlock.read_text()


def dead_process() -> int:
    """The pid of a process that is gone."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.kill(child, 0)
        raise OSError(errno.EEXIST, "somebody has taken its number")
    return child
