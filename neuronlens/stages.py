"""The five stages: what each reads, which parameters it depends on, and how it is run into a folder.

Nothing heavy is imported here, so that asking whether a stage is current stays cheap.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from neuronlens import artifact, methods
from neuronlens.checkpoint import close_checkpoint, identify_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import dataset_fingerprint, locate_dataset
from neuronlens.errors import ArtifactError, DatasetError, InputsChangedError, UserError
from neuronlens.parts import Mapper, Parts, in_threads

OUTSIDE = ("checkpoint", "dataset", "auxiliary", "questions")
PATHS = ("path", "sae", "auxiliary", "questions")  # keys of parameters that say where something lies

Runner = Callable[..., dict[str, object]]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: also the name of its folder in an audit.
        function: where it lives, as `module:function`; called with the configuration, the folders it needs, and an empty folder.
        needs: stages whose artifacts it reads.
        params: sections or values of the configuration it depends on. Paths are left out: what they hold counts, not where it lies.
        outside: what it reads from outside the audit: `checkpoint`, `dataset`, `auxiliary`, `questions`.
        method: version of the method, see `neuronlens.methods`.
        in_parts: whether its work is done in parts that outlive an interruption.
        retells: whether it tells what the manifests before it say, and not only what lies beside them.
    """

    name: str
    function: str
    needs: tuple[str, ...]
    params: tuple[str, ...]
    outside: tuple[str, ...] = ()
    method: int = field(kw_only=True)
    in_parts: bool = field(default=False, kw_only=True)
    retells: bool = field(default=False, kw_only=True)

    def identity(self, before: Path) -> str:
        """Of the artifact of a stage before it, as far as this one depends on it.

        Raises:
            ArtifactError: it is not there.
        """
        return artifact.manifest_hash(before) if self.retells else artifact.content_hash(before)

    def run(self, config: Config, inputs: Mapping[str, Path], out: Path, parts: Parts) -> dict[str, object]:
        """Call the stage's function."""
        module, _, name = self.function.partition(":")
        runner: Runner = getattr(import_module(module), name)
        return runner(config, inputs, out, parts) if self.in_parts else runner(config, inputs, out)


_WORDS = ("dataset", "seed")
STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "prepare",
            "neuronlens.prepare:prepare",
            (),
            (*_WORDS, "checkpoint.family", "extract.sites", "interventions.top", "interventions.tuned.top"),
            OUTSIDE,
            method=methods.PREPARE,
        ),
        Stage(
            "extract",
            "neuronlens.activations.extract:extract",
            ("prepare",),
            (
                *_WORDS,
                "checkpoint.dtype",
                "checkpoint.family",
                "extract",
                "evaluate.scoring",
                "evaluate.auxiliary_rows",
            ),
            ("checkpoint", "auxiliary"),
            method=methods.EXTRACT,
            in_parts=True,
        ),
        Stage(
            "fit",
            "neuronlens.ranges.fit:fit",
            ("prepare", "extract"),
            ("fit", "interventions", "seed"),
            method=methods.FIT,
        ),
        Stage(
            "evaluate",
            "neuronlens.evaluation.sweep:evaluate",
            ("prepare", "fit"),
            (
                *_WORDS,
                "checkpoint.dtype",
                "checkpoint.family",
                "extract.pooling",
                "extract.batch_tokens",
                "interventions",
                "evaluate",
            ),
            ("checkpoint", "auxiliary", "questions"),
            method=methods.EVALUATE,
            in_parts=True,
        ),
        Stage(
            "report",
            "neuronlens.report.page:report",
            ("prepare", "extract", "fit", "evaluate"),
            ("preset", "checkpoint", "dataset", "extract", "fit", "interventions", "evaluate", "seed"),
            ("checkpoint", "dataset"),
            method=methods.REPORT,
            retells=True,
        ),
    )
}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `computed`, `restored` or `current`, and why."""

    stage: str
    outcome: str
    reason: str
    seconds: float


def audit_id(config: Config) -> str:
    """Name of an audit: checkpoint, 8 hex digits of its fingerprint, data."""
    name, fingerprint = identify_checkpoint(config.checkpoint)
    return f"{name}-{fingerprint[:8]}-{locate_dataset(config.dataset)[1]}"


def stage_params(stage: Stage, config: Config) -> dict[str, Any]:
    """The parameters a stage depends on, without paths."""
    values = config.model_dump(mode="json")
    chosen: dict[str, Any] = {}
    for name in stage.params:
        value: Any = values
        for key in name.split("."):
            value = None if value is None else value[key]  # a section that is switched off has no values
        chosen[name] = value
    return {name: _without_paths(value) for name, value in chosen.items()}


def stage_inputs(stage: Stage, config: Config, audit: Path) -> dict[str, str]:
    """name -> identity of everything a stage reads.

    Raises:
        UserError: an input from outside is missing.
        ArtifactError: an earlier stage has not been run.
    """
    return identities(config, stage.outside) | {name: stage.identity(audit / name) for name in stage.needs}


def identities(config: Config, names: Iterable[str] = OUTSIDE) -> dict[str, str]:
    """name -> identity of what an audit reads from outside.

    Args:
        names: among `checkpoint`, `dataset`, `auxiliary`, `questions`.

    Raises:
        UserError: it is missing.
    """
    outside: dict[str, Callable[[], str]] = {
        "checkpoint": lambda: identify_checkpoint(config.checkpoint)[1],
        "dataset": lambda: dataset_fingerprint(config.dataset),
        "auxiliary": lambda: _file(
            "evaluate.auxiliary", config.evaluate.auxiliary, "Name a text file with a document a line"
        ),
        "questions": lambda: _file(
            "evaluate.questions", config.evaluate.questions, "Name a JSON Lines file with a question a line"
        ),
    }
    return {name: outside[name]() for name in names}


def run_stage(name: str, config: Config, audit: Path, *, force: bool = False, mapper: Mapper = in_threads) -> Outcome:
    """Bring a stage of an audit up to date: nothing where it is current, else computed into a folder that appears when whole.

    Args:
        force: compute it even so.
        mapper: how parts of its work are made.
    """
    refuse_foreign_files(audit, name)
    stage, out = STAGES[name], audit / name
    inputs, params = stage_inputs(stage, config, audit), stage_params(stage, config)
    reason = "asked for" if force else why_not_current(stage, inputs, params, out)
    if reason is None:
        tidy(name, audit)
        return Outcome(name, "current", "nothing it depends on has changed", 0.0)
    seconds = compute_stage(name, config, audit, mapper)
    return Outcome(name, "computed", reason, seconds)


def compute_stage(name: str, config: Config, audit: Path, mapper: Mapper = in_threads) -> float:
    """Compute a stage into a folder that appears when whole. Parts that an interrupted run has finished are not computed again.

    Args:
        mapper: how parts are made.

    Returns:
        Seconds it took.

    Raises:
        InputsChangedError: what it reads changed while it ran.
    """
    stage, out = STAGES[name], audit / name
    inputs, params = stage_inputs(stage, config, audit), stage_params(stage, config)
    start = time.perf_counter()
    # a part that another version of a library has made may differ in its last digits from those that would now stand beside it
    key = artifact.hash_value([artifact.stage_key(name, stage.method, inputs, params), artifact.library_versions()])
    parts = Parts.of(out, key, mapper)
    with artifact.fresh_folder(out) as folder:
        facts = stage.run(config, {need: audit / need for need in stage.needs}, folder, parts)
        if stage_inputs(stage, config, audit) != inputs:
            parts.clear()  # they bear the name of what was there before, and nobody knows what they were made of
            raise InputsChangedError(f"what {name} reads changed while it ran; run the same command again")
        artifact.write_manifest(folder, stage=name, method=stage.method, inputs=inputs, params=params, facts=facts)
        seconds = time.perf_counter() - start
        artifact.write_json(
            folder / artifact.TIMING,
            {"seconds": round(seconds, 3), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        )
    parts.clear()
    return seconds


def tidy(name: str, audit: Path) -> None:
    """Remove what killed runs have left of a stage whose artifact is there."""
    Parts.clear_all(audit / name)
    artifact.remove_stale(audit / name)


def is_made(name: str, config: Config, audit: Path) -> bool:
    """Whether a stage's artifact is there, whole, and what the stage would make now."""
    stage = STAGES[name]
    try:
        inputs = stage_inputs(stage, config, audit)
    except ArtifactError:  # of a stage before it
        return False
    return why_not_current(stage, inputs, stage_params(stage, config), audit / name) is None


def release_memory() -> None:
    """Let go of what stages that run in one process leave for each other: the checkpoint's weights, and hidden states."""
    close_checkpoint()
    hidden = sys.modules.get("neuronlens.activations.hidden")  # where no stage has imported it, nothing is held
    if hidden is not None:
        hidden.discard()


def refuse_foreign_files(folder: Path, stage: str) -> None:
    """A stage replaces its folder as a whole, so it must not meet one that NeuronLens did not write.

    A folder that holds one artifact of ours is an audit's, whatever has become of the manifests of the others.

    Raises:
        UserError: it would.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError("is a file", where=str(folder), cure="Name a folder with --out.")
    taken = folder / stage
    if taken.exists() and not any((folder / name / artifact.MANIFEST).exists() for name in STAGES):
        raise UserError(
            f"is no artifact of NeuronLens, and the stage {stage} would replace it",
            where=str(taken),
            cure="Name another folder with --out, or delete it.",
        )


def why_not_current(stage: Stage, inputs: Mapping[str, str], params: Mapping[str, Any], out: Path) -> str | None:
    """None where the artifact in `out` is what the stage would make now; otherwise what differs."""
    if not (out / artifact.MANIFEST).exists():
        return "not there yet"
    try:
        manifest = artifact.read_manifest(out)
    except ArtifactError as error:
        return str(error)
    if manifest["key"] == artifact.stage_key(stage.name, stage.method, inputs, params):
        return None if artifact.is_intact(out) else "its files are not what they were when they were written"
    if manifest["method"] != stage.method:
        return f"the method of {stage.name} changed"
    changed = [name for name, value in inputs.items() if manifest["inputs"].get(name) != value]
    if changed:
        return f"{', '.join(changed)} changed"
    old, new = dict(flat(manifest["params"])), dict(flat(params))
    return ", ".join(
        f"{name} {old.get(name)} -> {new.get(name)}" for name in sorted(old | new) if old.get(name) != new.get(name)
    )


def _file(key: str, path: str | None, cure: str) -> str:
    """Identity of a file that need not be given."""
    if path is None:
        return "none"
    file = Path(path).expanduser()
    if not file.is_file():
        raise DatasetError("no such file", where=f"{key}: {file}", cure=f"{cure}, or --set {key}=null.")
    return artifact.hash_file(file)


def _without_paths(value: Any) -> Any:
    return {key: part for key, part in value.items() if key not in PATHS} if isinstance(value, dict) else value


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as pairs of a dotted name and a value."""
    found: list[tuple[str, Any]] = []
    for key, part in value.items():
        found += flat(part, f"{prefix}{key}.") if isinstance(part, Mapping) else [(prefix + key, part)]
    return found
