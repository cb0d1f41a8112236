"""The comparison of two audits, on real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuronlens.artifact import is_intact, read_json, read_table
from neuronlens.comparison.document import compare
from neuronlens.errors import UserError
from tests.compared import Audits


def test_a_checkpoint_that_was_saved_again_shows_no_change(audits: Audits, tmp_path: Path) -> None:
    found = compare(audits.first, audits.again, tmp_path / "out")
    assert found["identical"]
    assert found["decided"] == []
    assert {row["max_wasserstein"] for row in found["drift"]} == {0.0}
    assert {row["stray"] for row in found["drift"]} == {0.0}
    assert {
        state for row in found["ranges"] for state in row if state not in ("site", "concept", "saliency", "top")
    } == {"kept"}
    assert {row["rank_biased_overlap"] for row in found["rankings"]} == {1.0}
    changes = read_table(tmp_path / "out" / "changes.parquet")
    assert {*changes["value"].to_pylist()} == {0.0}
    assert {*changes["p"].to_pylist()} == {1.0}


def test_changes_are_those_of_the_audits_own_tables(audits: Audits, tmp_path: Path) -> None:
    """Every level and difference of the comparison stands in results.parquet of the two audits."""
    compare(audits.first, audits.moved, tmp_path / "out")
    changes = read_table(tmp_path / "out" / "changes.parquet").to_pylist()
    tables = []
    for folder in (audits.first, audits.moved):
        rows = [
            row
            for name in ("results", "chosen")
            for row in read_table(folder / "evaluate" / f"{name}.parquet").to_pylist()
        ]
        tables.append({(row["site"], row["role"], row["method"], row["concept"]): row for row in rows})
    compared = 0
    for change in changes:
        key = (change["site"], change["role"], change["method"], change["concept"])
        if change["method"] is None or change["concept"] is None:
            continue
        for level, table in zip(("before", "after"), tables, strict=True):
            row = table[key]
            if change["quantity"] == "log_perplexity_ratio":
                expected = np.log(row["perplexity"] / row["base_perplexity"])
            else:
                expected = row[change["quantity"]]
            assert change[level] == pytest.approx(expected, abs=1e-6), key
        assert change["value"] == pytest.approx(change["after"] - change["before"], abs=1e-9)
        assert change["low"] <= change["value"] <= change["high"]
        compared += 1
    roles = {change["role"] for change in changes}
    assert compared > 100
    assert {"sweep", "chosen"} <= roles


def test_what_moved_is_told(audits: Audits, tmp_path: Path) -> None:
    found = compare(audits.first, audits.moved, tmp_path / "out")
    assert not found["identical"]
    assert all(row["max_wasserstein"] > 0 for row in found["drift"])
    assert found["farthest"][0]["wasserstein"] == max(row["max_wasserstein"] for row in found["drift"])
    assert is_intact(tmp_path / "out")
    assert read_json(tmp_path / "out" / "comparison.json") == json.loads(json.dumps(found))


def test_equal_audits_give_equal_bytes(audits: Audits, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compare(audits.first, audits.moved, tmp_path / name)
    files = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    ]
    assert files[0] == files[1]


def test_a_folder_without_an_audit_is_refused(audits: Audits, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no finished audit: prepare, extract, fit, evaluate missing"):
        compare(audits.first, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ranges_that_moved_are_those_that_either_audit_masks(audits: Audits, tmp_path: Path) -> None:
    found = compare(audits.first, audits.moved, tmp_path / "out")
    drift = {
        (row["site"], row["concept"], row["neuron"]): row
        for row in read_table(tmp_path / "out" / "drift.parquet").to_pylist()
    }
    masked = []
    for folder in (audits.first, audits.moved):
        rows = read_table(folder / "fit" / "ranges.parquet").to_pylist()
        masked.append(
            {
                (row["site"], row["concept"], row["neuron"]): (row["lower"][0], row["upper"][0])
                for row in rows
                if (row["range"], row["role"], row["tau"]) == ("gaussian", "sweep", 2.0)
            }
        )
    assert found["movements"]
    places: dict[tuple[str, str], list[float]] = {}
    for row in found["movements"]:
        key = row["site"], row["concept"], row["neuron"]
        assert (row["wasserstein"], row["mean_before"]) == (drift[key]["wasserstein"], drift[key]["mean_before"])
        for when, ranges in zip(("before", "after"), masked, strict=True):
            assert (row[f"lower_{when}"], row[f"upper_{when}"]) == ranges.get(key, (None, None))
        assert (row["state"] == "vanished") == (key in masked[0] and key not in masked[1])
        assert (row["state"] == "appeared") == (key not in masked[0] and key in masked[1])
        places.setdefault(key[:2], []).append(row["wasserstein"])
    for (site, concept), distances in places.items():
        assert distances == sorted(distances, reverse=True)
        either = {key for ranges in masked for key in ranges if key[:2] == (site, concept)}
        assert distances[0] == max(drift[key]["wasserstein"] for key in either)


def test_where_nothing_moved_no_range_is_listed(audits: Audits, tmp_path: Path) -> None:
    assert compare(audits.first, audits.again, tmp_path / "out")["movements"] == []
