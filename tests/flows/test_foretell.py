"""What an audit costs is told before it computes, and what the disk has no room for is not begun."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple

import pyarrow as pa
import pytest

from flows.cli import main
from neuronlens.artifact import write_table
from tests.conftest import labelled

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def command(checkpoints, tmp_path, monkeypatch):
    """An audit of a tiny classifier, without Prefect."""
    monkeypatch.chdir(tmp_path)  # away from the params.yaml of the repository
    rows = labelled(fit=6, validation=1, test=2)
    columns = {"text": list(rows.text), "label": list(rows.concept), "split": list(rows.split)}
    write_table(tmp_path / "rows.parquet", pa.table(columns))
    given = ["--checkpoint", str(checkpoints("bert").path), "--dataset", str(tmp_path / "rows.parquet")]
    sets = ["fit.rows=all", "interventions.top=0.3", "interventions.tuned=null", "evaluate.bootstrap=100"]
    options = [part for text in sets for part in ("--set", text)]
    return ["audit", *given, *options, "--no-flow", "--out", str(tmp_path / "audit")]


def test_a_line_before_it_computes_and_none_where_there_is_nothing_to_compute(command, capsys):
    assert main(command) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("plan ")
    assert re.search(r"extract, fit, evaluate: [\d.]+ s of the model's time", first)
    assert "activations on disk: about" in first
    assert main(command) == 0
    assert "plan " not in capsys.readouterr().out
    assert main([*command, "--set", "extract.keep_rows=false"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "statistics on disk, in place of activations: about" in first
    assert "extract.keep_rows=false" in first


def test_what_does_not_fit_on_the_disk_is_not_begun(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "extraction takes about" in err
    assert "--out" in err
    assert not (tmp_path / "audit" / "prepare").exists()
