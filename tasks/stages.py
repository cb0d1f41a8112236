"""One Prefect task run per stage of an audit."""

from __future__ import annotations

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from neuronlens.stages import Outcome
from tasks.audits import Audit, bring_up_to_date
from tasks.runners import Pool


# Prefect's own cache stays off: it would be a second truth, one that does not see a deleted or changed artifact.
@task(task_run_name="{name} of {audit.folder.name}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(name: str, audit: Audit, pool: Pool, *, force: bool = False) -> State[Outcome]:
    """`bring_up_to_date`; a stage that had nothing to compute ends in a state named Cached.

    Args:
        pool: makes the parts of its work.
    """
    outcome = bring_up_to_date(audit, name, force=force, mapper=pool)
    state = "Completed" if outcome.outcome == "computed" else "Cached"
    return Completed(name=state, message=f"{outcome.outcome}: {outcome.reason}", data=outcome)
