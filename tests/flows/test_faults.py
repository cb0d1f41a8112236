"""Real processes that meet a full disk, each other, and a DVC that was at work before them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import engine
from flows.engine import default_folder
from neuronlens.config import Config
from neuronlens.stages import STAGES, Outcome
from tasks import tracking
from tasks.audits import open_existing
from tasks.versioning import Workspace
from tests import forked
from tests.flows.command import as_options
from tests.flows.results import files
from tests.forked import Forked

PLAIN = "import sys; from flows.cli import main; sys.exit(main(sys.argv[1:]))"


def amid_prefect(words: Sequence[str]) -> int:
    """The command line, but for the first word: the number of a signal that is sent as Prefect makes its second task run."""
    from prefect import task_engine

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # which a shell has ignored for what it runs in the background
    create, seen = task_engine._create_task_run_locally, list[object]()

    def interrupted(**arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 2:
            os.kill(os.getpid(), int(words[0]))
        return create(**arguments)

    task_engine._create_task_run_locally = interrupted  # of this process, which ends with the audit
    return forked.neuronlens(words[1:])


def small(words: Sequence[str]) -> int:
    """The command line, but for the first two words: from a stage on, files may not be larger than so many bytes."""
    limit, after, *arguments = words
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    told = engine._logged

    def fill() -> None:
        sys.dont_write_bytecode = True  # compiled files that are cut short stay, and no process can read them
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))

    def logged(outcome: Outcome) -> Outcome:
        found = told(outcome)
        if outcome.stage == after:
            fill()
        return found

    engine._logged = logged  # of this process, which ends with the audit
    if after == "start":
        fill()
    return forked.neuronlens(arguments)


def _command(config: Config) -> list[str]:
    return [*as_options(config), "--no-flow"]


def _started(words: list[str], root: Path) -> subprocess.Popen[str]:
    """A process with imports and an end of its own."""
    threads = str(torch.get_num_threads())  # sums over other numbers of threads round otherwise
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}
    return subprocess.Popen(
        [sys.executable, "-c", PLAIN, *words],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sampled(cells: Sequence[Any], *kept: int) -> Sequence[Any]:
    """A cell costs half a minute, so `make test` looks at some of them, and `make faults` at all."""
    return cells if os.environ.get("NEURONLENS_FAULTS") == "all" else [cells[place] for place in kept]


FULL = [("start", 2_000), ("start", 20_000), *((name, 1_000) for name in STAGES)]


@pytest.mark.parametrize(("after", "limit"), sampled(FULL, 5))
def test_a_disk_without_room_is_one_line_and_the_run_goes_on_when_there_is_some(
    after: str,
    limit: int,
    audited: Path,
    configure: Callable[..., Config],
    workspace_at: Callable[[Path], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the start or after a stage files may not be larger than so many bytes: a full disk looks like that to whoever writes them."""
    root = workspace_at(tmp_path / "ours").root
    words = _command(configure())
    failed = Forked(small, [str(limit), after, *words], root)
    _, told = failed.communicate(timeout=300)
    assert failed.returncode == 3, told
    *_, last = told.strip().splitlines()
    assert last.startswith("neuronlens: ")
    assert "kept" in last
    done = Forked(forked.neuronlens, words, root)
    _, told = done.communicate(timeout=300)
    assert done.returncode == 0, told
    monkeypatch.chdir(root)
    assert files(default_folder(configure())) == files(audited)


@pytest.mark.parametrize("more", sampled([["--no-flow"], []], 1))
def test_a_job_that_is_told_to_end_says_how_to_go_on(
    more: list[str],
    audited: Path,
    configure: Callable[..., Config],
    workspace_at: Callable[[Path], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = workspace_at(tmp_path / "ours").root
    words = [*as_options(configure()), *more]
    ended = _started(words, root)
    assert ended.stdout is not None
    told = [ended.stdout.readline() for _ in range(2)]  # the first stage is done, and others are not
    assert [line.partition(" ")[0] for line in told] == ["plan", "prepare"]
    ended.terminate()
    _, said = ended.communicate(timeout=120)
    assert ended.returncode == 130, said
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith("neuronlens: interrupted; what is finished is kept. To resume: neuronlens audit ")
    done = Forked(forked.neuronlens, _command(configure()), root)
    out, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert "\nprepare   current" in out
    monkeypatch.chdir(root)
    assert files(default_folder(configure())) == files(audited)


@pytest.mark.parametrize("told", sampled([signal.SIGTERM, signal.SIGINT], 0))
def test_a_signal_amid_the_bookkeeping_of_prefect_is_told_as_one(
    told: signal.Signals, configure: Callable[..., Config], workspace_at: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    """Prefect marks a task run as crashed that it has not made yet, and fails."""
    root = workspace_at(tmp_path / "ours").root
    ended = Forked(amid_prefect, [str(int(told)), *as_options(configure())], root)
    _, said = ended.communicate(timeout=120)
    assert ended.returncode == 130, said
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith("neuronlens: interrupted; what is finished is kept. To resume: neuronlens audit ")


def test_two_runs_of_one_audit_at_once_compute_each_stage_once(
    audited: Path,
    configure: Callable[..., Config],
    workspace_at: Callable[[Path], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = workspace_at(tmp_path / "ours").root
    runs = [Forked(forked.neuronlens, _command(configure()), root) for _ in range(2)]
    told = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    lines = [
        line.split() for out, _ in told for line in out.splitlines() if line.split()[:1] and line.split()[0] in STAGES
    ]
    ended = Counter((words[0], words[1].rstrip(":")) for words in lines)
    assert ended == {(name, outcome): 1 for name in STAGES for outcome in ("computed", "current")}
    monkeypatch.chdir(root)
    folder = default_folder(configure())
    assert files(folder) == files(audited)
    audit = open_existing(folder)
    uri = tracking.store_uri(audit)
    assert uri is not None
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 1


def test_a_store_that_cannot_be_used_is_told_and_the_audit_is_kept(
    audited: Path, configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Workspace.create(tmp_path / "ours").root
    (root / "mlflow.db").write_text("no database")
    failed = Forked(forked.neuronlens, _command(configure()), root)
    _, told = failed.communicate(timeout=300)
    assert failed.returncode == 3
    *_, last = told.strip().splitlines()
    assert "mlflow.db" in last
    assert "The audit is complete and kept" in last
    monkeypatch.chdir(root)
    assert files(default_folder(configure())) == files(audited)
    (root / "mlflow.db").unlink()
    done = Forked(forked.neuronlens, _command(configure()), root)
    out, told = done.communicate(timeout=300)
    assert done.returncode == 0, told
    assert sum(" current: " in line for line in out.splitlines()) == len(STAGES)
    assert tracking.find(open_existing(default_folder(configure()))) is not None
