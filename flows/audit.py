"""The audit as a Prefect flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, flow, runtime

from flows.engine import in_order
from neuronlens.config import Config
from neuronlens.stages import Outcome, audit_id
from tasks.stages import run_stage


def _run_name() -> str:
    return audit_id(runtime.flow_run.parameters["config"])


@flow(name="audit", flow_run_name=_run_name, persist_result=False)
def audit_flow(config: Config, folder: Path, force: bool = False) -> list[Outcome]:
    """Bring every stage of the audit in `folder` up to date."""
    states: list[State[Any]] = []

    def run(name: str) -> Outcome:
        states.append(run_stage(name, config, folder, force=force, wait_for=states, return_state=True))
        outcome: Outcome = states[-1].result()
        return outcome

    return in_order(run)
