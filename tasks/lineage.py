"""Where an audit comes from: the chain from a report to the weights and rows behind it, with every hash on the way computed again, and what
was recorded of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuronlens import artifact
from neuronlens.config import Config
from neuronlens.errors import ArtifactError, UserError, redacted
from neuronlens.report.context import Step
from neuronlens.stages import OUTSIDE, STAGES, Outcome, identities
from tasks import tracking
from tasks.audits import Audit
from tasks.pipeline import AUDIT_FILE, PIPELINE_FILE


@dataclass(frozen=True)
class Link:
    """A step of the chain.

    Attributes:
        name: of the stage, or of what comes in from outside.
        identity: hash of its content, as it is now; None where it is not here.
        told: what was found, in words.
        holds: whether it is as it was recorded; None where that could not be checked, or nothing is recorded to check it by.
    """

    name: str
    identity: str | None
    told: tuple[str, ...]
    holds: bool | None


def lineage(audit: Audit) -> list[Link]:
    """From the report backwards, then what came in from outside, then who else knows of it."""
    contents: dict[str, str | None] = {}
    manifests: dict[str, dict[str, Any]] = {}
    links = []
    entries = {}
    if audit.workspace is not None and audit.pipeline is not None:
        entries = audit.workspace.check([audit.pipeline.address(name) for name in STAGES])
    for name in STAGES:
        try:
            manifests[name] = artifact.read_manifest(audit.folder / name)
            contents[name] = artifact.content_hash(audit.folder / name)
        except ArtifactError:
            contents[name] = None
    for name, stage in reversed([*STAGES.items()]):
        if contents[name] is None:
            links.append(Link(name, None, ("is not here",), holds=False))
            continue
        told, holds = [], artifact.is_intact(audit.folder / name)
        told.append("every file as its manifest says" if holds else "FILES DIFFER from its manifest")
        for need in stage.needs:
            made_of = {contents[need], *([stage.identity(audit.folder / need)] if contents[need] else [])}
            if manifests[name]["inputs"].get(need) not in made_of:  # earlier versions knew contents alone
                told.append(f"MADE OF ANOTHER {need}")
                holds = False
        if audit.pipeline is not None:
            matches, md5 = entries[audit.pipeline.address(name)]
            told.append(
                "not in dvc.lock" if md5 is None else f"dvc {md5}" if matches else f"NOT THE ONE IN dvc.lock, {md5}"
            )
            holds = holds and matches
        links.append(Link(name, contents[name], tuple(told), holds))
    recorded = {
        key: value for manifest in manifests.values() for key, value in manifest["inputs"].items() if key in OUTSIDE
    }
    links += [_outside(audit.config, name, recorded[name]) for name in OUTSIDE if recorded.get(name, "none") != "none"]
    if all(contents.values()):
        known = tracking.find(audit)
        if known is not None:
            links.append(
                Link(
                    "mlflow",
                    tracking.state_key(audit.folder),
                    (redacted(f"run {known.run} in {known.uri}"),),
                    holds=True,
                )
            )
    commit = None if audit.workspace is None else audit.workspace.git_commit()
    if commit is not None:
        links.append(
            Link(
                "git", commit, ("checked out now; the one that made the audit is a tag of its MLflow run",), holds=None
            )
        )
    return links


def _outside(config: Config, name: str, recorded: str) -> Link:
    """Whether what lies where the parameters say is what the audit is of."""
    place = {
        "checkpoint": config.checkpoint.path,
        "dataset": config.dataset.path,
        "auxiliary": config.evaluate.auxiliary,
        "questions": config.evaluate.questions,
    }[name]
    try:
        now = identities(config, [name])[name]
    except UserError as error:
        return Link(name, recorded, (f"not here to be checked: {error.what}",), holds=None)
    if now == recorded:
        return Link(name, now, (f"{place} is the one",), holds=True)
    return Link(name, recorded, (f"{place} IS ANOTHER ONE, {now[:12]}",), holds=False)


def recorded(audit: Audit, outcomes: Sequence[Outcome] = ()) -> tuple[list[Step], dict[str, str]]:
    """What came in and what was made of it, as manifests and the audit's MLflow run have it, and who else knows of it: name -> identity.

    No file but the manifests is read, and no hash is computed again; `lineage` does that.

    Args:
        outcomes: of the stages in the run that has just ended; told where no MLflow run tells them.
    """
    tags: dict[str, str] = {}
    made: dict[str, str] = {}
    # a folder that DVC does not know is noted nowhere but where the user has named a store
    noted = audit if audit.pipeline is not None else replace(audit, workspace=None)
    try:
        known = tracking.origin(noted)
        if known is not None:
            run, tags = known
            made["MLflow run"] = run.run
            own = noted.workspace is not None and str(noted.workspace.root) in run.uri
            made["MLflow store"] = "of this workspace" if own else redacted(run.uri)
    except tracking.StoreError as error:
        made["MLflow run"] = f"not known: {error}"
    for name, tag in (("Prefect flow run", "prefect.flow_run"), ("git commit", "git.commit")):
        if tag in tags:
            made[name] = tags[tag]
    now = {each.stage: f"{each.outcome}: {each.reason}" for each in outcomes}
    manifests = {name: artifact.read_manifest(audit.folder / name) for name in STAGES}
    inputs = {key: value for each in manifests.values() for key, value in each["inputs"].items() if key in OUTSIDE}
    steps = [Step(name, inputs[name]) for name in OUTSIDE if inputs.get(name, "none") != "none"]
    for name, manifest in manifests.items():
        steps.append(
            Step(
                name,
                artifact.content_hash(audit.folder / name),
                sum(file["bytes"] for file in manifest["files"].values()),
                timing(audit.folder / name).get("seconds"),
                _how(tags.get(f"neuronlens.{name}") or now.get(name)),
                next((md5 for key, md5 in tags.items() if key.startswith("dvc.") and key.endswith(f"/{name}")), None),
            )
        )
    return steps, made


def timing(stage: Path) -> dict[str, Any]:
    """How long a stage took and when it ended, where it was computed here."""
    try:
        found: dict[str, Any] = artifact.read_json(stage / artifact.TIMING)
    except ArtifactError:
        return {}
    return found


def command(audit: Audit) -> str:
    """What makes the audit again: from the root of its workspace, or, outside of any, from where its inputs lie."""
    folder = audit.folder.resolve()
    root = None if audit.workspace is None else audit.workspace.root.resolve()
    told = folder.relative_to(root) if root is not None and folder.is_relative_to(root) else Path(folder.name)
    if (folder / AUDIT_FILE).is_file():
        return f"neuronlens audit --params {shlex.quote((told / AUDIT_FILE).as_posix())}"
    made = f"neuronlens audit --out {shlex.quote(told.as_posix())}"
    known = audit.pipeline is not None and audit.pipeline.file == PIPELINE_FILE
    return made if known else f"{made}, with the parameters in audit.json"


def _how(recorded: str | None) -> str | None:
    """An outcome with its reason, in the words of a reader who asks whether something was computed anew."""
    outcome, _, reason = (recorded or "").partition(": ")
    return f"reused: {reason}" if outcome in ("current", "restored") else recorded
