"""The audit as a Prefect flow: the same files as without, and Prefect's part of the bargain kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.schedules import IntervalSchedule

from flows.audit import audit_flow
from flows.engine import default_folder, run_audit
from neuronlens.artifact import TIMING
from neuronlens.config import Config
from neuronlens.errors import DatasetError
from neuronlens.stages import STAGES, audit_id
from tasks import tracking
from tasks.audits import open_existing
from tasks.versioning import Workspace

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


def test_stages_and_their_parts_are_task_runs_with_names_and_states_that_tell(
    workspace_at: Callable[[Path], Workspace],
    configure: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    audited: Path,
) -> None:
    monkeypatch.chdir(workspace_at(tmp_path / "ours").root)
    folder = default_folder(configure())
    states = [audit_flow(configure(), folder, return_state=True) for _ in range(2)]
    assert _files(folder / "evaluate") == _files(audited / "evaluate")
    with get_client(sync_client=True) as client:
        first, second = (
            client.read_task_runs(
                task_run_filter=TaskRunFilter(
                    flow_run_id=TaskRunFilterFlowRunId(any_=[state.state_details.flow_run_id])
                )
            )
            for state in states
        )
        flow_run = client.read_flow_run(states[0].state_details.flow_run_id)
    assert flow_run.name == folder.name
    names = {run.name: run for run in first}
    assert {f"{stage} of {folder.name}" for stage in STAGES} < set(names)
    assert any("-shard-00000" in name for name in names)
    assert any("-test-00000" in name for name in names)
    assert {run.state_name for run in first} == {"Completed"}
    assert {run.name: run.state_name for run in second} == {f"{stage} of {folder.name}": "Cached" for stage in STAGES}
    noted = tracking.find(open_existing(folder))
    assert noted is not None
    tags = MlflowClient(tracking_uri=noted.uri).get_run(noted.run).data.tags
    assert tags["prefect.flow_run"] == str(states[0].state_details.flow_run_id)


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
