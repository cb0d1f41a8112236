"""The audit as a Prefect flow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefect import State, flow, runtime
from prefect.states import Completed

from flows.engine import finish, in_order
from neuronlens.config import Config
from neuronlens.stages import Outcome, audit_id
from tasks.audits import open_audit
from tasks.runners import Pool
from tasks.stages import run_stage


def _run_name() -> str:
    return audit_id(runtime.flow_run.parameters["config"])


@flow(name="audit", flow_run_name=_run_name, persist_result=False)
def audit_flow(config: Config, folder: Path, force: bool = False) -> State[list[Outcome]]:
    """Bring every stage of the audit in `folder` up to date. A run that found nothing to compute ends in a state named Cached."""
    audit = open_audit(config, folder)
    states: list[State[Any]] = []

    with Pool(config.runner) as pool:

        def run(name: str) -> Outcome:
            states.append(run_stage(name, audit, pool, force=force, wait_for=states, return_state=True))
            outcome: Outcome = states[-1].result()
            return outcome

        outcomes = in_order(run)
    finish(audit, outcomes, runtime.flow_run.id)
    return done(outcomes)


def done(outcomes: list[Outcome], what: str = "") -> State[list[Outcome]]:
    """The state of an audit that is there: named Cached where there was nothing to compute.

    Args:
        what: stands before what its message tells.
    """
    kinds = Counter(outcome.outcome for outcome in outcomes)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Completed(name="Completed" if kinds["computed"] else "Cached", message=what + told, data=outcomes)
