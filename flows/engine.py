"""How stages are run: by Prefect's engine, or without it. Prefect is imported only where it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from neuronlens.checkpoint import identify_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import locate_dataset
from neuronlens.errors import ConfigError, UserError
from neuronlens.params import load_config
from neuronlens.stages import STAGES, Outcome, audit_id, release_memory, run_stage
from tasks.audits import AUDITS, Audit, bring_up_to_date, open_audit, open_existing, state_of
from tasks.environment import set_environment
from tasks.pipeline import AUDIT_FILE, PIPELINE_FILE, check_audited, pipeline_of
from tasks.versioning import Workspace

if TYPE_CHECKING:
    from tasks.pages import Written

log = logging.getLogger("neuronlens.audit")


COSTLY = frozenset({"extract", "fit", "evaluate"})
"""Stages whose cost is worth foretelling."""


def foretell(audit: Audit, *, force: bool = False) -> None:
    """Log a line of what an audit is going to cost, where one of the costly stages will be computed.

    Args:
        force: the stages that are current will be computed, too.

    Raises:
        UserError: it cannot be audited, or would not fit on the disk.
    """
    config, folder = audit.config, audit.folder
    computed = [made.stage for made in state_of(audit) if force or made.outcome == "computed"]
    if not COSTLY & {*computed}:
        return
    from flows.console import plan_line
    from neuronlens.activations.disk import check_room, taken
    from neuronlens.plan import plan

    try:
        found = plan(config)
    finally:
        if config.runner.kind != "threads":  # others make the parts, and need the card
            release_memory()
    log.info("%-8s  %s", "plan", plan_line(found, [name for name in computed if name in COSTLY]))
    if "extract" in computed:
        left = sum(
            taken(parts) for parts in folder.glob(".extract.parts-*")
        )  # by an interrupted run, and not made again
        check_room(folder, found.running_bytes - left)


def run_audit(
    config: Config, folder: Path, *, use_flow: bool = True, force: bool = False, create: bool = False
) -> list[Outcome]:
    """Bring every stage of the audit in `folder` up to date.

    Args:
        use_flow: run as a Prefect flow; the artifacts are the same without.
        force: compute the stages that are current, too.
        create: make a workspace around the folder's parent where there is none.

    Raises:
        UserError: the configuration, the data or the checkpoint cannot be audited, or `folder` holds somebody else's files.
    """
    try:
        audit = open_audit(config, folder, create=create)  # a mistake is told before the engine is started
        if not use_flow:
            if config.runner.kind != "threads":
                raise ConfigError(
                    f"{config.runner.kind} make parts for Prefect's engine only",
                    where="runner",
                    cure="Leave out --no-flow, or --set runner=threads.",
                )
            foretell(audit, force=force)
            found = in_order(lambda name: bring_up_to_date(audit, name, force=force))
            finish(audit, found)
            return found
        foretell(audit, force=force)
        set_environment()
        from flows.server import prefect_api

        with prefect_api():
            from prefect import tags

            from flows.audit import audit_flow

            with tags(*_tags(config)):
                # a flow that returns a state gives its caller what the state holds, which its types do not say
                return cast(list[Outcome], audit_flow(config, folder, force))
    finally:
        release_memory()


def _tags(config: Config) -> list[str]:
    """By which runs are found that have to do with a checkpoint, or with a data set."""
    return [f"checkpoint:{identify_checkpoint(config.checkpoint)[0]}", f"data:{locate_dataset(config.dataset)[1]}"]


def default_folder(config: Config) -> Path:
    """Where an audit goes for which no folder is named: audits/ID of the workspace around the current folder, which stands for one where
    there is none.
    """
    here = Path.cwd()
    workspace = Workspace.find(here)
    folder = (here if workspace is None else workspace.root) / AUDITS / audit_id(config)
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def workspace_here() -> Workspace:
    """The workspace around the current folder.

    Raises:
        UserError: there is none.
    """
    found = Workspace.find(Path.cwd())
    if found is None:
        raise UserError(
            "no workspace",
            where=str(Path.cwd()),
            cure="Go to one, or make one: neuronlens audit does, and so does dvc init (outside git: dvc init --no-scm).",
        )
    return found


def audits_of(workspace: Workspace) -> list[Path]:
    """Folders of the audits of a workspace, the one that its root's pipeline makes among them."""
    known = {path.parent for name in (PIPELINE_FILE, "report") for path in (workspace.root / AUDITS).glob(f"*/{name}")}
    return sorted(folder for folder in known if pipeline_of(folder, workspace.root))


def state_of_audits(folders: Sequence[Path] | None = None) -> dict[Path, list[Outcome]]:
    """Folder -> what its stages would need to be up to date with the parameters that lie beside them.

    Args:
        folders: all of the workspace around the current folder unless told otherwise.
    """
    return {folder: state_of(open_existing(folder)) for folder in folders or audits_of(workspace_here())}


def exchange(way: Literal["push", "pull"], folders: Sequence[Path] | None, remote: str | None) -> int:
    """Send audits of the workspace to a remote, or get them from there; how many files went.

    Args:
        folders: all of the workspace unless told otherwise.
        remote: name or address; that of params.yaml unless told otherwise, else DVC's default.

    Raises:
        UserError: a folder holds no audit of the workspace, or the remote cannot do it.
    """
    workspace = workspace_here()
    files = []
    for folder in folders or ():
        pipeline = pipeline_of(folder, workspace.root)
        if pipeline is None:
            raise UserError("holds no audit of this workspace", where=str(folder), cure="See neuronlens status.")
        files.append(pipeline.file)
    if remote is None and (workspace.root / "params.yaml").is_file():
        remote = load_config(workspace.root / "params.yaml").remote.url
    workspace = replace(workspace, remote=remote)
    return workspace.push(files) if way == "push" else workspace.pull(files)


def run_one(name: str, config: Config | None, folder: Path) -> Outcome:
    """Compute one stage of the audit in `folder`, as DVC does that has found it not to be current.

    Args:
        config: that of the audit's audit.yaml where None.
    """
    if config is None:
        config = load_config(folder / AUDIT_FILE)
        check_audited(config, folder)
    return _logged(run_stage(name, config, folder))


def in_order(run: Callable[[str], Outcome]) -> list[Outcome]:
    """Call `run` with the name of each stage in turn; every outcome is logged as soon as it is there."""
    return [_logged(run(name)) for name in STAGES]


def _logged(outcome: Outcome) -> Outcome:
    spent = f" in {outcome.seconds:.1f} s" if outcome.outcome == "computed" else ""
    log.info("%-8s  %s%s: %s", outcome.stage, outcome.outcome, spent, outcome.reason)
    return outcome


def finish(audit: Audit, outcomes: Sequence[Outcome], flow_run: str | None = None) -> None:
    """Note a complete audit in MLflow, and send it where that is configured.

    Args:
        outcomes: of its stages.
        flow_run: id of the Prefect run that made it.

    Raises:
        NeuronLensError, UserError: a store cannot be reached; the audit is complete and kept.
    """
    from tasks.tracking import record

    noted = record(audit, {made.stage: f"{made.outcome}: {made.reason}" for made in outcomes}, flow_run=flow_run)
    if noted is not None and noted.new:
        log.info("%-8s  run %s", "mlflow", noted.run)
    if audit.config.remote.push and audit.workspace is not None and audit.pipeline is not None:
        log.info("%-8s  %d files sent", "remote", audit.workspace.push([audit.pipeline.file]))


def write_page(config: Config, folder: Path, outcomes: Sequence[Outcome] = ()) -> Path:
    """Write the page of the audit in `folder` with what stands around it, and its entry in the index over all audits; where the page is.

    Args:
        config: of the audit; it is judged by the gates in it, unless a line of checkpoints has judged it.
        outcomes: of its stages, in the run that has just ended.

    Raises:
        UserError: a page would take the place of a file that NeuronLens did not write.
    """
    from tasks.surroundings import surroundings

    place = surroundings(replace(open_existing(folder), config=config), config.gates)
    if not place.is_current():
        from tasks.around import around
        from tasks.pages import write_pages

        told(write_pages(around(place), outcomes))
    return place.page


def told(written: Written) -> Written:
    """What has been written, after telling of an index that was damaged."""
    if written.index_remade:
        log.warning("%-8s  the index over all audits was damaged; made anew of the audits that are stored", "index")
    return written


def finish_comparison(before: Path, after: Audit, folder: Path) -> None:
    """Note a comparison in MLflow.

    Args:
        before: folder of the first audit.
        folder: of the comparison.

    Raises:
        StoreError: a store cannot be used; the comparison is complete and kept.
    """
    from tasks.tracking import record_comparison

    noted = record_comparison(before, after, folder)
    if noted is not None and noted.new:
        log.info("%-8s  run %s", "mlflow", noted.run)
