"""A cell of the table: a run that is disturbed, what it says and leaves, and a plain second run that puts everything right."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from neuronlens.artifact import MANIFEST, TIMING, _machine
from neuronlens.stages import STAGES
from tasks.versioning import Workspace
from tests.faults.cells import COMPARE, HURT, PAGE, SIGNALS, Cell
from tests.faults.injection import Injection, mortal_workers
from tests.faults.runs import (
    AUDIT,
    COMPARED,
    Ended,
    Runner,
    artifacts,
    dead_process,
    everything,
    held_locks,
    hidden,
)

RESUMED = re.compile(r"To resume: neuronlens \S+|[Rr]un the same command again")
_IN_WORKSPACE = ("recorded", "locked")


@dataclass
class Cases:
    """Runs cells.

    Attributes:
        folder: where.
        runner: of the command line.
        undisturbed, versioned: an audit and a comparison that nobody has disturbed, outside of a workspace and in one.
        parts: those that it made.
    """

    folder: Path
    runner: Runner
    undisturbed: Path
    versioned: Path
    parts: Counter[str]

    @classmethod
    def begin(cls, folder: Path) -> Cases:
        """Run what nobody disturbs."""
        (folder / "inputs").mkdir()
        runner = Runner.on_new_data(folder / "inputs")
        plain, versioned = folder / "undisturbed", folder / "versioned"
        plain.mkdir()
        versioned.mkdir()
        Workspace.create(versioned)
        for words in (runner.audit(), runner.compare()):
            _well(runner.run(words, plain))
            if words[0] == "audit":
                parts = Counter(plain.with_suffix(".parts").read_text().splitlines())
        _well(runner.run(runner.audit(), versioned))
        for stage in ("extract", "evaluate"):
            assert sum(part.startswith(f".{stage}.") for part in parts) > 2, parts
        return cls(folder, runner, plain, versioned, parts)

    def problems(self, cell: Cell) -> list[str]:
        """What is not as it should be in a cell."""
        here = self.folder / cell.name
        shutil.copytree(self.versioned if cell.moment in _IN_WORKSPACE else self.undisturbed, here)
        try:
            return [*self._problems(cell, here)]
        finally:
            for left in self.folder.glob(f"{cell.name}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _problems(self, cell: Cell, here: Path) -> Iterator[str]:
        whole, paths = artifacts(here), everything(here)
        words = self.runner.compare() if cell.stage == COMPARE else self.runner.audit()
        self._set_back(cell, here)
        there = _stages(here)
        disturbed = None
        if cell.fault not in (*HURT, "stale-lock"):
            disturbed = self._disturb(cell, here, words)
            yield from _told_rightly(cell, disturbed)
            if not (here.parent / f"{cell.name}.fired").exists():
                yield "nothing has gone wrong"
            yield from _never_half(here, whole)
            killed = cell.fault in ("SIGKILL", "killed-worker")
            yield from (f"left by a run that has tidied up: {name}" for name in ([] if killed else hidden(here)))
        else:
            self._hurt(cell, here, words)
        made = _made(here, whole) if disturbed else there - self._hurt_stages(cell)
        again = self.runner.run(words, here)
        if again.code != 0:
            yield f"the second run ends with {again.code}: {again.err}"
        repeated = [name for name in made if again.stages.get(name, "current") != "current"]
        if repeated:
            yield f"computed again: {repeated}"
        found = artifacts(here)
        yield from (f"{name} differs" for name in sorted(whole | found) if whole.get(name) != found.get(name))
        yield from (f"was not there before: {name}" for name in sorted(everything(here) - paths))
        yield from (f"is gone: {name}" for name in sorted(paths - everything(here)))
        yield from (f"is still locked: {name}" for name in held_locks(here))
        yield from self._repeated(cell, here)
        if cell.moment in _IN_WORKSPACE:
            told = json.loads(self.runner.run(["status", AUDIT, "--json"], here).out)
            left = {made["stage"]: made["reason"] for made in told[0]["stages"] if made["outcome"] != "current"}
        else:
            third = {} if cell.stage == COMPARE else self.runner.run(words, here).stages
            left = {name: outcome for name, outcome in third.items() if outcome != "current"}
        if left:
            yield f"a third run has to do something: {left}"

    def _set_back(self, cell: Cell, here: Path) -> None:
        """To the moment before the run that is disturbed."""
        if cell.stage == COMPARE:
            if cell.moment not in ("data", "manifest", "exchanged", "after") or cell.fault in SIGNALS:
                shutil.rmtree(here / COMPARED)
        elif cell.stage == PAGE:
            (here / AUDIT / "index.html").unlink()
        elif not (cell.fault in HURT and cell.moment in ("data", "manifest")) and (
            cell.fault,
            cell.moment,
        ) != ("stale-lock", "after"):
            self._remove(cell.stage, here)
        if cell.moment == "exchanged" and cell.stage not in (PAGE, COMPARE):  # an old artifact, which is another one
            shutil.copytree(self.undisturbed / AUDIT / cell.stage, here / AUDIT / cell.stage)
            _damage("truncated", _data_file(here / AUDIT / cell.stage))
        if cell.moment == "exchanged" and cell.stage == COMPARE:
            if not (here / COMPARED).exists():
                shutil.copytree(self.undisturbed / COMPARED, here / COMPARED)
            _damage("truncated", _data_file(here / COMPARED))

    @staticmethod
    def _remove(stage: str, here: Path) -> None:
        names = list(STAGES)
        for name in names[names.index(stage) :]:
            shutil.rmtree(here / AUDIT / name)
        (here / AUDIT / "index.html").unlink(missing_ok=True)
        lock = here / AUDIT / "dvc.lock"
        if lock.exists():
            known = yaml.safe_load(lock.read_text())
            known["stages"] = {name: known["stages"][name] for name in names[: names.index(stage)]}
            lock.write_text(yaml.safe_dump(known))
            shutil.rmtree(here / ".dvc/cache/runs")  # or DVC would restore what is gone

    def _disturb(self, cell: Cell, here: Path, words: list[str]) -> Ended:
        fired = here.parent / f"{cell.name}.fired"
        if cell.fault == "killed-worker":
            return self.runner.run(words, here, lambda: mortal_workers(cell, fired))
        return self.runner.run(words, here, Injection(cell, fired).start)

    def _hurt(self, cell: Cell, here: Path, words: list[str]) -> None:
        """What happens to files between two runs."""
        folder = here / (COMPARED if cell.stage == COMPARE else f"{AUDIT}/{cell.stage}")
        if cell.fault == "stale-lock":
            _leave_behind(cell, here, folder)
        elif cell.moment == "part":
            interrupted = Cell("SIGKILL", cell.stage, "part")
            self.runner.run(words, here, Injection(interrupted, here.parent / f"{cell.name}.fired").start)
            (parts,) = folder.parent.glob(f".{cell.stage}.parts-*")
            part = sorted(path for path in parts.iterdir() if not path.name.startswith("."))[0]
            self.parts[f".{cell.stage}.parts {part.name}"] += 1  # is made once more, and rightly so
            _damage(cell.fault, part if cell.fault == "deleted" else _data_file(part))
        elif cell.moment == "input":
            before = folder.with_name(STAGES[cell.stage].needs[-1])
            _damage(cell.fault, before if cell.fault == "deleted" else _data_file(before))
        elif cell.moment == "manifest":
            _damage(cell.fault, folder / MANIFEST)
        else:
            _damage(cell.fault, folder if cell.fault == "deleted" else _data_file(folder))

    @staticmethod
    def _hurt_stages(cell: Cell) -> set[str]:
        """Stages whose artifacts are no longer what they were."""
        if cell.fault not in HURT or cell.moment == "part":
            return set()
        return {STAGES[cell.stage].needs[-1]} if cell.moment == "input" else {cell.stage}

    def _repeated(self, cell: Cell, here: Path) -> Iterator[str]:
        """Parts that were whole, and have been made once more."""
        told = here.with_suffix(".parts")
        made = Counter(told.read_text().splitlines()) if told.exists() else Counter[str]()
        allowed = self.parts
        if cell.moment == "part" and cell.fault in HURT:
            allowed = Counter(self.parts)
            for name in [name for name, count in self.parts.items() if count > 1]:
                self.parts[name] = 1
        lost = made - allowed
        if sum(lost.values()) > (1 if cell.fault == "killed-worker" else 0):
            yield f"made again: {dict(lost)}"


def _told_rightly(cell: Cell, ended: Ended) -> Iterator[str]:
    if cell.fault == "SIGKILL":
        if ended.code != -signal.SIGKILL:
            yield f"ended with {ended.code} and not by the signal: {ended.err}"
        return
    if cell.fault == "killed-worker" and cell.moment != "always":
        if ended.code != 0:
            yield f"ended with {ended.code} though others could do it: {ended.err}"
        return
    expected = 130 if cell.fault in SIGNALS else 3
    if ended.code != expected:
        yield f"ended with {ended.code}, not {expected}: {ended.err}"
    kept = "kept" in ended.last or cell.stage == COMPARE  # which leaves nothing half done
    if not ended.last.startswith("neuronlens: ") or not kept or not RESUMED.search(ended.last):
        yield f"does not say what is kept and how to go on: {ended.last!r}"
    if cell.fault != "memory" and "Traceback" in ended.err:
        yield f"a traceback: {ended.err}"


def _stages(here: Path) -> set[str]:
    return {name for name in STAGES if (here / AUDIT / name / MANIFEST).exists()}


def _made(here: Path, whole: dict[str, bytes]) -> set[str]:
    """Stages whose artifacts are what they shall be."""
    found, wrong = artifacts(here), set()
    for name in STAGES:
        own = f"{AUDIT}/{name}/"
        if any(path.startswith(own) and found.get(path) != content for path, content in whole.items()):
            wrong.add(name)
    return {*STAGES} - wrong


def _never_half(here: Path, whole: dict[str, bytes]) -> Iterator[str]:
    """Artifacts that are there have all their files; the one that was stale before may be so still."""
    found = artifacts(here)
    for name in sorted(_stages(here)):
        own = f"{AUDIT}/{name}/"
        expected = {path for path in whole if path.startswith(own)}
        if expected != {path for path in found if path.startswith(own)}:
            yield f"half an artifact: {name}"


def _data_file(folder: Path) -> Path:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (MANIFEST, TIMING)]
    return next((path for path in files if path.suffix == ".parquet"), files[0])


def _damage(fault: str, path: Path) -> None:
    """Of a copy, as links to the same file may be somewhere else."""
    if fault == "deleted":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    content = bytearray(path.read_bytes())
    if fault == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0x20
    path.unlink()
    path.write_bytes(content)


def _leave_behind(cell: Cell, here: Path, folder: Path) -> None:
    """What a process left that is gone: temporary folders, an old artifact that was on its way out, parts, DVC's locks."""
    gone = dead_process()
    if cell.moment == "locked":
        tmp = here / ".dvc/tmp"
        (tmp / "neuronlens").mkdir(parents=True, exist_ok=True)
        held = {"pid": gone, "cmd": "neuronlens audit"}
        (tmp / "rwlock").write_text(json.dumps({"write": {str(folder): held}, "read": {}}))
        (tmp / "lock").write_text(f"{gone}")
        return
    own = f".{folder.name}.tmp-{gone}@{_machine()}-abc"
    kinds = {"before": (own,), "during": (own, f"{own}-old"), "after": (own, f"{own}-old")}[cell.moment]
    for name in kinds:
        (folder.parent / name / "rows").mkdir(parents=True)
        (folder.parent / name / "rows/half.parquet").write_bytes(b"PAR1")
    if cell.stage in ("extract", "evaluate") and cell.moment != "before":
        part = folder.parent / f".{folder.name}.parts-0123456789abcdef" / f".one.tmp-{gone}@{_machine()}-abc"
        part.mkdir(parents=True)
        (part / "half.parquet").write_bytes(os.urandom(8))


def _well(ended: Ended) -> None:
    assert ended.code == 0, ended
