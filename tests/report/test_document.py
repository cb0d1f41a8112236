"""audit.json keeps its promise to programs: its schema, strict JSON, and nothing left out."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from neuronlens.artifact import read_table
from neuronlens.report.document import audit_document
from tests.report.artifacts import config, make_audit, results_table


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads((files("neuronlens.report") / "templates" / "audit.schema.json").read_text(encoding="utf-8"))


def test_the_document_follows_its_schema(audit: Any, schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(audit, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("spoil", ["checkpoint", "results", "trust", "findings"])
def test_the_schema_notices_what_is_missing_or_misspelt(audit: Any, schema: Any, spoil: str) -> None:
    del audit[spoil]
    with pytest.raises(jsonschema.ValidationError, match=spoil):
        jsonschema.validate(audit, schema, cls=jsonschema.Draft202012Validator)
    audit[spoil], audit["surprise"] = {}, 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(audit, schema, cls=jsonschema.Draft202012Validator)


def test_every_row_of_the_results_is_there(audit: Any, audit_inputs: dict[str, Path]) -> None:
    tables = [read_table(audit_inputs["evaluate"] / f"{name}.parquet").to_pylist() for name in ("results", "chosen")]
    assert [{name: row[name] for name in row if name != "kind"} for row in audit["results"]] == [*tables[0], *tables[1]]
    kinds = {(row["role"], row["method"].partition("-")[0], row["kind"]) for row in audit["results"]}
    assert {("sweep", "gaussian", "gaussian"), ("chosen", "tuned", "tuned"), ("chosen", "whole", "full")} <= kinds


def test_what_is_not_finite_becomes_null(tmp_path: Path, schema: Any) -> None:
    table = results_table(perplexity=lambda _kind, place: math.inf if place else math.nan)
    audit = audit_document(config(), make_audit(tmp_path, config(), table))
    text = json.dumps(audit, allow_nan=False)
    assert all(row["perplexity"] is None for row in audit["results"])
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


def test_base_accuracy_is_the_unedited_models(audit: Any) -> None:
    base = audit["base"]
    assert (base["n"], base["accuracy"]) == (120, pytest.approx(0.8))
    assert base["majority"] == pytest.approx(1 / 6)
    assert base["low"] < 0.8 < base["high"]
    assert base["high"] - base["low"] < base["concepts"][0]["high"] - base["concepts"][0]["low"]  # more rows


def test_few_concepts_are_a_warning(tmp_path: Path, audit: Any) -> None:
    assert audit["trust"]["warnings"] == []
    few = audit_document(config(), make_audit(tmp_path, config(), results_table(("a", "b"))))
    assert "no mean over 2 concepts can be told from zero" in few["trust"]["warnings"][0]
    assert {finding["verdict"] for finding in few["findings"] if finding["claim"] != "known"} == {"not decided"}
