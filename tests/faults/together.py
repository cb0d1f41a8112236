"""The program of test_together: different audits at once in one workspace, each in a process forked from this one."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

from flows.engine import audits_of, state_of_audits
from tasks import tracking
from tasks.audits import open_existing
from tasks.tracking.audits import state_key
from tasks.versioning import Workspace
from tests.faults.runs import Runner, artifacts, everything, held_locks, hidden, prepare_process
from tests.flows.results import files


def main(folder: Path, count: int) -> None:
    """Run so many, and look at what they have left."""
    prepare_process(tracked=True)
    import_module("mlflow")
    (folder / "inputs").mkdir()
    runner = Runner.on_new_data(folder / "inputs")
    names = [f"topics{i}.csv" for i in range(count)]
    lines = (folder / "inputs/data.csv").read_text().splitlines()
    for i, name in enumerate(names):  # another data set each, and so another audit
        (folder / "inputs" / name).write_text("\n".join([*lines, f"the bank{' the bank' * i},finance,test", ""]))
    root = Workspace.create(folder / "ours").root
    # they share the current folder, so that what each says goes to a file of its own
    running = {name: runner.start(runner.audit(name, "--set", "seed=0"), root, told=folder / name) for name in names}
    ended = {name: runner.wait(child, folder / name) for name, child in running.items()}
    assert {name: each.code for name, each in ended.items()} == dict.fromkeys(names, 0), ended
    os.chdir(root)
    found = audits_of(Workspace(root))
    assert len(found) == count, found
    states = {made.outcome for stages in state_of_audits(found).values() for made in stages}
    assert states == {"current"}, "DVC knows all of them"
    runs = {(noted := tracking.find(open_existing(audit))) and noted.run for audit in found}
    assert len(runs) == count and None not in runs, runs
    assert len({state_key(audit) for audit in found}) == count
    index = (root / "audits/index.html").read_text()
    assert all(f"{audit.name}/index.html" in index for audit in found)
    assert [*held_locks(root)] == hidden(root) == []
    left = [
        name for name in everything(root) if Path(name).name.startswith(".") and "tmp" in name and ".dvc" not in name
    ]
    assert left == []
    alone = folder / "alone"
    for name in names:  # as each is where nobody else is at work
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir()
        assert runner.run(runner.audit(name), alone).code == 0
        (same,) = [audit for audit in found if audit.name.endswith(Path(name).stem)]
        expected = {path.removeprefix("audits/one/"): content for path, content in artifacts(alone).items()}
        assert files(same) == expected, name


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
