"""What a Prefect server runs on demand and on a schedule: one audit, and one look at a line, as `neuronlens watch` looks at it, too.

Their parameters are what the command line takes, typed for the forms of Prefect's pages; paths count from the folder that a run has as
its current one, which is the workspace's root.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prefect import State, flow, runtime
from prefect.states import Completed

from flows import events
from flows.audit import done
from flows.configured import config_of
from flows.engine import default_folder, log, run_audit, write_page
from flows.watch import in_words, line_here, source_of, watch_once, worst
from neuronlens.errors import NeuronLensError
from neuronlens.incoming import SETTLED
from neuronlens.stages import Outcome
from tasks.environment import set_environment
from tasks.lines import Decision

_NAMES = {0: "Completed", 1: "GateFailed", 4: "GateNotDecided"}


class NotAuditedError(NeuronLensError):
    """A look in which a checkpoint could not be audited.

    Attributes:
        decisions: all that the look has made; they are kept.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = [*decisions]
        failed = [decision for decision in decisions if decision.error is not None]
        super().__init__(f"{len(failed)} of {len(decisions)}: " + "; ".join(map(in_words, failed)))


def _audit_name() -> str:
    given = runtime.flow_run.parameters
    return f"{_last(given['checkpoint'])} on {_data(given)}"


def _watch_name() -> str:
    given = runtime.flow_run.parameters
    return f"{_last(given['source'])} on {_data(given)}"


def _data(given: Mapping[str, Any]) -> str:
    """Name of the data that a run is given, by its parameters alone: a mistake in them is the run's to tell."""
    try:
        config = config_of(_file(given.get("params")), given.get("overrides"), {"dataset.path": given.get("dataset")})
    except NeuronLensError:
        return "unknown data"
    return Path(config.dataset.path).stem or "unknown data"


def _last(path: str) -> str:
    return Path(path).name or path


def _file(params: str | None) -> Path | None:
    return None if params is None else Path(params)


def _begin() -> None:
    set_environment()
    if log.level == logging.NOTSET:  # nobody has said otherwise: what stages tell reaches the logs of the run
        log.setLevel(logging.INFO)


@flow(name="audit-checkpoint", flow_run_name=_audit_name, persist_result=False)
def audit(
    checkpoint: str,
    dataset: str | None = None,
    params: str | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
) -> State[list[Outcome]]:
    """Audit a checkpoint on labelled text, into audits/ of the workspace.

    Args:
        checkpoint: its folder, or hub id.
        dataset: labelled text; that of the parameters unless told otherwise.
        params: file with the parameters; params.yaml of the workspace unless told otherwise.
        overrides: single parameters, such as interventions.tau=[2.0, 2.5].
        force: compute the stages that are current, too.
    """
    _begin()
    config = config_of(_file(params), overrides, {"checkpoint.path": checkpoint, "dataset.path": dataset})
    folder = default_folder(config)
    outcomes = run_audit(config, folder, force=force, create=True)
    write_page(config, folder, outcomes)
    return done(outcomes, f"{folder}: ")


@flow(name="watch-line", flow_run_name=_watch_name, persist_result=False)
def watch(
    source: str,
    dataset: str | None = None,
    params: str | None = None,
    overrides: list[str] | None = None,
    settled: float = SETTLED,
) -> State[list[Decision]]:
    """Look at a line once: audit every checkpoint that has come, hold it against the one before it, and judge it by the gates.

    A look in which a gate failed ends as GateFailed, one in which none failed but one could not be decided as GateNotDecided. One in which
    a checkpoint could not be audited fails.

    Args:
        source: folder of checkpoint-STEP folders, models:/NAME of MLflow's registry, or a hub id.
        dataset: labelled text; that of the parameters unless told otherwise.
        params: file with the parameters; params.yaml of the workspace unless told otherwise.
        overrides: single parameters, such as interventions.tau=[2.0, 2.5].
        settled: seconds without a change after which a folder that is not whole counts as broken.

    Raises:
        NotAuditedError: a checkpoint could not be audited.
    """
    _begin()
    config = config_of(_file(params), overrides, {"dataset.path": dataset})
    line = line_here(source)
    decisions = watch_once(config, line, source_of(source, settled), tell=lambda news: events.tell(line, news))
    events.looked(line, decisions)
    code = worst(decisions)
    if code == 3:
        raise NotAuditedError(decisions)
    told = "; ".join(map(in_words, decisions)) or "nothing new"
    return Completed(name=_NAMES[code], message=told, data=decisions)


def look(
    source: str, dataset: str | None, params: Path | None, overrides: Sequence[str] | None, settled: float
) -> list[Decision]:
    """Look at a line once, as a run of the flow; what was decided. See `flows.watch.watch_once` for what is raised."""
    try:
        # a flow that returns a state gives its caller what the state holds, which its types do not say
        decided = watch(source, dataset, None if params is None else str(params), [*(overrides or [])], settled)
        return cast(list[Decision], decided)
    except NotAuditedError as error:
        return error.decisions
