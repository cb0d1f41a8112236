"""The chain from a report to the weights and rows behind it, every hash on the way computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuronlens import artifact
from neuronlens.config import Config
from neuronlens.errors import ArtifactError, UserError, redacted
from neuronlens.stages import OUTSIDE, STAGES, identities
from tasks import tracking
from tasks.audits import Audit


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
            if manifests[name]["inputs"].get(need) != contents[need]:
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
