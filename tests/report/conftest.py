"""One report made from artifacts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuronlens.report.page import report
from tests.report.artifacts import config, make_audit, results_table


@pytest.fixture(scope="session")
def audit_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of an audit with 6 concepts at 2 sites."""
    folder = tmp_path_factory.mktemp("audit")
    return make_audit(folder, config(), results_table(sites=("resid_post.0", "mlp_post.1")), gain=0.3, joint=0.2)


@pytest.fixture(scope="session")
def report_folder(audit_inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage wrote for `audit_inputs`."""
    out = tmp_path_factory.mktemp("report")
    report(config(), audit_inputs, out)
    return out


@pytest.fixture
def audit(report_folder: Path) -> Any:
    """audit.json."""
    return json.loads((report_folder / "audit.json").read_text(encoding="utf-8"))
