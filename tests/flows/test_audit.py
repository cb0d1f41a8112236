"""The audit as a Prefect flow: the same files as without, and Prefect's part of the bargain kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule

from flows.audit import audit_flow
from flows.engine import run_audit
from neuronlens.artifact import TIMING
from neuronlens.config import Config
from neuronlens.errors import DatasetError
from neuronlens.stages import STAGES, audit_id

pytestmark = pytest.mark.usefixtures("prefect_server")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != TIMING
    }


def test_a_flow_makes_the_same_bytes_and_then_has_nothing_to_do(
    audited: Path, configure: Callable[..., Config], tmp_path: Path
) -> None:
    first = audit_flow(configure(), tmp_path / "audit", return_state=True)
    assert [outcome.outcome for outcome in first.result()] == ["computed"] * len(STAGES)
    assert _files(tmp_path / "audit") == _files(audited)
    second = run_audit(configure(), tmp_path / "audit")
    assert [(outcome.stage, outcome.outcome) for outcome in second] == [(name, "current") for name in STAGES]
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(first.state_details.flow_run_id)
    assert run.name == audit_id(configure())


def test_a_users_mistake_leaves_the_flow_as_it_was_raised_and_is_not_logged(
    configure: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "bank,law\n" * 5)
    with pytest.raises(DatasetError, match=r"data\.csv: holds one concept only"):
        audit_flow(configure(f"dataset.path={data}"), tmp_path / "audit")
    assert caplog.text == ""
    assert not (tmp_path / "audit").exists()


def test_a_schedule_creates_runs() -> None:
    """With SQLAlchemy 2.1 a schedule is accepted and never run."""
    every_minute = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=1)), active=True)
    with get_client(sync_client=True) as client:
        flow = client.create_flow(audit_flow)
        deployment = client.create_deployment(flow, name="recurring", schedules=[every_minute])
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={"min_runs": 3})
        own = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        assert len(client.read_flow_runs(deployment_filter=own)) >= 3
