"""A crash costs a batch, never a result: every cell of the table, each a run that is disturbed and a plain one after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from neuronlens.stages import STAGES
from tests.conftest import ROOT
from tests.faults.cells import CELLS, COMPARE, PAGE, SAMPLE, Cell

ASKED = CELLS if os.environ.get("NEURONLENS_FAULTS") == "all" else SAMPLE


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The program that runs cells."""
    command = [sys.executable, "-m", "tests.faults.server", str(tmp_path_factory.mktemp("faults"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


@pytest.mark.parametrize("cell", ASKED, ids=[cell.name for cell in ASKED])
def test_a_plain_second_run_ends_as_if_nothing_had_happened(cell: Cell, server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asdict(cell)) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the program has ended"
    assert json.loads(answer) == []


def test_the_table_has_over_200_cells_each_once_and_the_sample_each_fault_and_stage() -> None:
    assert len(CELLS) == len({*CELLS}) >= 200
    assert {cell.fault for cell in SAMPLE} == {cell.fault for cell in CELLS}
    assert {cell.stage for cell in SAMPLE} == {cell.stage for cell in CELLS} == {*STAGES, COMPARE, PAGE}
    assert {*SAMPLE} <= {*CELLS}
