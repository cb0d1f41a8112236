"""Audits that run at once in one workspace. Each costs over fifteen seconds, so that `make faults` alone looks at them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from neuronlens.artifact import is_intact
from neuronlens.stages import STAGES
from tasks.versioning import Workspace
from tests.conftest import ROOT
from tests.faults.runs import AUDIT, Runner, artifacts, held_locks

# over a minute each with what else is at work; two runs of one audit at once, without a server, are looked at by test_faults
pytestmark = pytest.mark.skipif(os.environ.get("NEURONLENS_FAULTS") != "all", reason="make faults runs it")

PLAIN = "import sys; from flows.cli import main; sys.exit(main(sys.argv[1:]))"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


def test_four_audits_at_once_are_all_right_and_all_recorded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.together", str(tmp_path), "4"]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_two_flows_of_one_audit_at_once_compute_each_stage_once(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    runner, root = Runner.on_new_data(tmp_path / "inputs"), Workspace.create(tmp_path / "ours").root
    words = [word for word in runner.audit() if word != "--no-flow"]
    command = [sys.executable, "-c", PLAIN, *words]
    running = [
        subprocess.Popen(
            command, cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    lines = [line.split() for out, _ in told for line in out.splitlines() if line.partition(" ")[0] in STAGES]
    ended = Counter((words[0], words[1].rstrip(":")) for words in lines)
    assert ended == {(name, outcome): 1 for name in STAGES for outcome in ("computed", "current")}
    assert all(is_intact(root / AUDIT / name) for name in STAGES)
    assert [*held_locks(root)] == []
    alone = tmp_path / "alone"
    alone.mkdir()
    done = subprocess.run([sys.executable, "-c", PLAIN, *runner.audit()], cwd=alone, env=environment(), check=False)
    assert done.returncode == 0
    assert artifacts(root) == artifacts(alone)
