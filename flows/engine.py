"""How stages are run: by Prefect's engine, or without it. Prefect is imported only where it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flows.environment import set_environment
from neuronlens.config import Config
from neuronlens.stages import (
    STAGES,
    Outcome,
    refuse_foreign_files,
    release_memory,
    run_stage,
    stage_inputs,
    stage_params,
    why_not_current,
)

log = logging.getLogger("neuronlens.audit")


def run_audit(config: Config, folder: Path, *, use_flow: bool = True, force: bool = False) -> list[Outcome]:
    """Bring every stage of the audit in `folder` up to date.

    Args:
        use_flow: run as a Prefect flow; the artifacts are the same without.
        force: compute the stages that are current, too.

    Raises:
        UserError: the configuration, the data or the checkpoint cannot be audited, or `folder` holds somebody else's files.
    """
    for name in STAGES:
        refuse_foreign_files(folder, name)
    try:
        if not use_flow:
            return in_order(lambda name: run_stage(name, config, folder, force=force))
        _check_early(config, folder)
        set_environment()
        from flows.server import prefect_api

        with prefect_api():
            from flows.audit import audit_flow

            return audit_flow(config, folder, force)
    finally:
        release_memory()


def run_one(name: str, config: Config, folder: Path) -> Outcome:
    """Bring one stage of the audit in `folder` up to date."""
    return _logged(run_stage(name, config, folder))


def in_order(run: Callable[[str], Outcome]) -> list[Outcome]:
    """Call `run` with the name of each stage in turn; every outcome is logged as soon as it is there."""
    return [_logged(run(name)) for name in STAGES]


def _logged(outcome: Outcome) -> Outcome:
    spent = f" in {outcome.seconds:.1f} s" if outcome.outcome == "computed" else ""
    log.info("%-8s  %s%s: %s", outcome.stage, outcome.outcome, spent, outcome.reason)
    return outcome


def _check_early(config: Config, folder: Path) -> None:
    """Tell a mistake at once instead of after the start of the engine."""
    stage = STAGES["prepare"]
    inputs = stage_inputs(stage, config, folder)
    if why_not_current(stage, inputs, stage_params(stage, config), folder / stage.name) is not None:
        from neuronlens.prepare import check

        check(config)
