"""One Prefect task run per stage of an audit."""

from __future__ import annotations

from pathlib import Path

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from neuronlens import stages
from neuronlens.config import Config
from neuronlens.stages import Outcome


# Prefect's own cache stays off: it would be a second truth, one that does not see a deleted or changed artifact.
@task(task_run_name="{name} of {folder.name}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(name: str, config: Config, folder: Path, *, force: bool = False) -> State[Outcome]:
    """`neuronlens.stages.run_stage`; a stage that had nothing to do ends in a state named Cached."""
    outcome = stages.run_stage(name, config, folder, force=force)
    state = "Cached" if outcome.outcome == "current" else "Completed"
    return Completed(name=state, message=outcome.reason, data=outcome)
