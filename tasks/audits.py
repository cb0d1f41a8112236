"""An audit that is being made. Where DVC knows its folder, DVC says what is current in it; elsewhere manifests alone do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuronlens import artifact, example, stages
from neuronlens.config import CheckpointParams, Config
from neuronlens.errors import UserError
from neuronlens.params import load_config
from neuronlens.parts import Mapper, in_threads
from neuronlens.stages import STAGES, Outcome
from tasks.foreign import refuse_foreign_page
from tasks.pipeline import (
    AUDIT_FILE,
    PIPELINE_FILE,
    Pipeline,
    describe,
    pipeline_of,
    refuse_foreign_descriptions,
    stage_making,
    written_by,
)
from tasks.versioning import Workspace

AUDITS, INDEX = "audits", "index.html"


@dataclass(frozen=True)
class Audit:
    """An audit that is being made.

    Attributes:
        config: what it is told.
        folder: where it goes.
        workspace, pipeline: who knows what is current in it; None where DVC does not know the folder, and manifests alone decide.
    """

    config: Config
    folder: Path
    workspace: Workspace | None = None
    pipeline: Pipeline | None = None


def open_audit(config: Config, folder: Path, *, create: bool = False) -> Audit:
    """An audit in a folder. One below `audits` of a workspace gets its own pipeline, one that the root's dvc.yaml makes has that.

    Args:
        create: make a workspace around `audits` where there is none, once all that comes in has been found fit to be audited.

    Raises:
        UserError: the data or the checkpoint cannot be audited, the folder holds somebody else's files, or the root's pipeline makes it
            from other parameters.
    """
    _refuse_the_folder_of_all(folder)
    workspace, known = _place(folder)
    if known is None:
        if workspace is not None:
            refuse_foreign_descriptions(folder)
        for name in STAGES:
            stages.refuse_foreign_files(folder, name)
        refuse_foreign_page(folder / INDEX)
    if not stages.is_made("prepare", config, folder):
        from neuronlens.prepare import check

        check(config)
    if workspace is None and create and Workspace.find(folder) is None:
        workspace = Workspace.create(folder.resolve().parent.parent)
    if workspace is None:
        return Audit(config, folder)
    workspace = replace(workspace, remote=config.remote.url)
    return Audit(config, folder, workspace, describe(config, folder, workspace.root))


def _refuse_the_folder_of_all(folder: Path) -> None:
    """What is in `audits` are folders of audits."""
    workspace = Workspace.find(folder)
    if workspace is not None and folder.resolve() == workspace.root / AUDITS:
        raise UserError(
            "is the folder that holds all audits",
            where=str(folder),
            cure=f"Name one in it with --out, such as {AUDITS}/NAME, or leave --out away.",
        )


def open_existing(folder: Path) -> Audit:
    """An audit that has been made, with the parameters it was made by.

    Raises:
        UserError: the folder holds no audit.
    """
    workspace = Workspace.find(folder)
    pipeline = None if workspace is None else pipeline_of(folder, workspace.root)
    if (folder / AUDIT_FILE).is_file():
        config = load_config(folder / AUDIT_FILE)
    elif workspace is not None and pipeline is not None and pipeline.file == PIPELINE_FILE:
        config = load_config(workspace.root / "params.yaml")
    elif (folder / "report" / artifact.MANIFEST).is_file():
        config = Config()
    else:
        raise UserError("holds no audit", where=str(folder), cure="Name the folder of one, such as audits/ID.")
    return Audit(config, folder, workspace, pipeline)


def checkpoint_of(audit: Audit) -> CheckpointParams:
    """Where the checkpoint of an audit lies by its parameters, which speak from the root of the workspace."""
    given = audit.config.checkpoint
    return given.model_copy(update={"path": _from_the_root(audit, given.path)}) if given.path else given


def auxiliary_of(audit: Audit) -> Path | None:
    """The text that an audit has measured perplexity on, likewise; None where it is not there, or has changed since."""
    from neuronlens.report.finished import measured_on  # which knows all that a report is made of

    given = audit.config.evaluate.auxiliary
    file = None if given is None else Path(_from_the_root(audit, given)).expanduser()
    if file is None or not file.is_file() or artifact.hash_file(file) != measured_on(audit.folder):
        return None
    return file


def _from_the_root(audit: Audit, path: str) -> str:
    """What is not here as the parameters name it, where it is from the root."""
    if audit.workspace is None or Path(path).expanduser().exists():
        return path
    inside = audit.workspace.root / path
    return str(inside) if inside.exists() else path


def foresee(config: Config, folder: Path) -> list[Outcome]:
    """What bringing all stages up to date would do, and why. Nothing is changed.

    Raises:
        UserError: an input is missing, or the root's pipeline makes the folder from other parameters.
    """
    workspace, known = _place(folder)
    if workspace is None:
        return _foresee_by_manifests(config, folder)
    written = {}
    if known is not None and known.file == PIPELINE_FILE:
        pipeline = describe(config, folder, workspace.root)  # which is written by hand, so that nothing is written now
    else:
        written = written_by(config, folder, workspace.root)
        pipeline = Pipeline(workspace.root, folder, next(iter(written)))
    return _look(workspace, pipeline, written)


def state_of(audit: Audit) -> list[Outcome]:
    """What bringing an audit up to date that has been made would do, by the parameters that lie beside it. Nothing is changed."""
    if audit.workspace is None or audit.pipeline is None:
        return foresee(audit.config, audit.folder)
    return _look(audit.workspace, audit.pipeline)


def _look(
    workspace: Workspace, pipeline: Pipeline, written: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Outcome]:
    found = workspace.look([pipeline.address(name) for name in STAGES], written)
    return [Outcome(name, decision.outcome, decision.reason, 0.0) for name, decision in zip(STAGES, found, strict=True)]


def _foresee_by_manifests(config: Config, folder: Path) -> list[Outcome]:
    found: list[Outcome] = []
    for name, stage in STAGES.items():
        after = [made.stage for made in found if made.stage in stage.needs and made.outcome == "computed"]
        if after:
            reason: str | None = f"follows {', '.join(after)}"
        else:
            inputs, params = stages.stage_inputs(stage, config, folder), stages.stage_params(stage, config)
            reason = stages.why_not_current(stage, inputs, params, folder / name)
        outcome = "current" if reason is None else "computed"
        found.append(Outcome(name, outcome, reason or "nothing it depends on has changed", 0.0))
    return found


def _place(folder: Path) -> tuple[Workspace | None, Pipeline | None]:
    """The workspace that versions the audit in a folder, if one does, and the pipeline that is there already."""
    workspace = None if os.environ.get("DVC_STAGE") else Workspace.find(folder)  # what DVC runs is in its hands already
    if workspace is None:
        return None, None
    known = pipeline_of(folder, workspace.root)
    if known is None and folder.resolve().parent != workspace.root / AUDITS:
        return None, None
    return workspace, known


def make_example(out: Path, progress: Callable[[str], None]) -> None:
    """The embedded example in a folder; recorded where the pipeline of the workspace makes that folder."""
    workspace = None if os.environ.get("DVC_STAGE") else Workspace.find(out)
    address = None if workspace is None else stage_making(out, workspace.root)
    if workspace is None or address is None:
        example.make_example(out, progress=progress)
    else:
        workspace.ensure(
            address,
            lambda: example.make_example(out, progress=progress),
            made=lambda: example.is_made(example.Example(out)),
        )


def bring_up_to_date(audit: Audit, name: str, *, force: bool = False, mapper: Mapper = in_threads) -> Outcome:
    """A stage of an audit, as it should be.

    Args:
        mapper: how parts of its work are made.
    """
    if audit.workspace is None or audit.pipeline is None:
        return stages.run_stage(name, audit.config, audit.folder, force=force, mapper=mapper)
    config, folder, pipeline = audit.config, audit.folder, audit.pipeline
    seconds = 0.0

    def compute() -> None:
        nonlocal seconds
        seconds = stages.compute_stage(name, config, folder, mapper)

    decision = audit.workspace.ensure(
        pipeline.address(name),
        compute,
        made=lambda: stages.is_made(name, config, folder),
        same=lambda: pipeline.says(config),
        tidy=lambda: stages.tidy(name, folder),
        force=force,
    )
    return Outcome(name, decision.outcome, decision.reason, seconds)
