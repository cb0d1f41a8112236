"""Ranges of one audit on the checkpoint of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronlens.artifact import is_intact, read_table
from neuronlens.comparison.transfer import transfer
from neuronlens.config import Config
from tests.compared import Audits


def test_ranges_on_an_equal_checkpoint_do_what_its_own_do(
    audits: Audits, configs: dict[str, Config], tmp_path: Path
) -> None:
    found = transfer(audits.first, audits.again, configs["again"], tmp_path / "out")
    assert found["decided"] == []
    assert {change["value"] for change in found["changes"]} == {0.0}
    assert is_intact(tmp_path / "out")
    own, lent = (read_table(folder / "evaluate" / "results.parquet") for folder in (audits.again, tmp_path / "out"))
    assert own.equals(lent)


def test_ranges_on_another_checkpoint_are_held_against_its_own(
    audits: Audits, configs: dict[str, Config], tmp_path: Path
) -> None:
    found = transfer(audits.first, audits.moved, configs["moved"], tmp_path / "out")
    lent = {
        (row["site"], row["method"], row["concept"]): row
        for row in read_table(tmp_path / "out" / "evaluate" / "chosen.parquet").to_pylist()
    }
    own = {
        (row["site"], row["method"], row["concept"]): row
        for row in read_table(audits.moved / "evaluate" / "chosen.parquet").to_pylist()
    }
    compared = 0
    for change in found["changes"]:
        key = (change["site"], change["method"], change["concept"])
        if change["concept"] is not None and change["quantity"] in own[key]:
            assert change["before"] == pytest.approx(own[key][change["quantity"]], abs=1e-6)
            assert change["after"] == pytest.approx(lent[key][change["quantity"]], abs=1e-6)
            compared += 1
    assert compared >= 6 * 4
