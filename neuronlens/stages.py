"""The five stages: what each reads, which parameters it depends on, and how it is run into a folder.

Nothing heavy is imported here, so that asking whether a stage is current stays cheap.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from neuronlens import artifact
from neuronlens.checkpoint import close_checkpoint, identify_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import dataset_fingerprint, locate_dataset
from neuronlens.errors import ArtifactError, DatasetError, UserError

Runner = Callable[[Config, Mapping[str, Path], Path], dict[str, object]]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: also the name of its folder in an audit.
        function: where it lives, as `module:function`; called with the configuration, the folders it needs, and an empty folder.
        needs: stages whose artifacts it reads.
        params: sections or values of the configuration it depends on. Paths are left out: what they hold counts, not where it lies.
        outside: what it reads from outside the audit: `checkpoint`, `dataset`, `auxiliary`, `questions`.
        method: version of the method; raised when equal inputs give other numbers, so that old artifacts are not reused.
    """

    name: str
    function: str
    needs: tuple[str, ...]
    params: tuple[str, ...]
    outside: tuple[str, ...] = ()
    method: int = 1

    def run(self, config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
        """Call the stage's function."""
        module, _, name = self.function.partition(":")
        runner: Runner = getattr(import_module(module), name)
        return runner(config, inputs, out)


_WORDS = ("dataset", "seed")
STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "prepare",
            "neuronlens.prepare:prepare",
            (),
            (*_WORDS, "extract.sites", "interventions.top", "interventions.tuned.top"),
            ("checkpoint", "dataset", "auxiliary", "questions"),
        ),
        Stage(
            "extract",
            "neuronlens.activations.extract:extract",
            ("prepare",),
            (*_WORDS, "checkpoint.dtype", "extract", "evaluate.scoring", "evaluate.auxiliary_rows"),
            ("checkpoint", "auxiliary"),
            method=5,
        ),
        Stage("fit", "neuronlens.ranges.fit:fit", ("prepare", "extract"), ("fit", "interventions", "seed"), method=4),
        Stage(
            "evaluate",
            "neuronlens.evaluation.sweep:evaluate",
            ("prepare", "fit"),
            (*_WORDS, "checkpoint.dtype", "extract.pooling", "extract.batch_tokens", "interventions", "evaluate"),
            ("checkpoint", "auxiliary", "questions"),
            method=6,
        ),
        Stage(
            "report",
            "neuronlens.report.page:report",
            ("prepare", "extract", "fit", "evaluate"),
            ("preset", "checkpoint", "dataset", "extract", "fit", "interventions", "evaluate", "seed"),
            ("checkpoint", "dataset"),
            method=2,
        ),
    )
}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `computed` or `current`, and why."""

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
    return {name: outside[name]() for name in stage.outside} | {
        name: artifact.content_hash(audit / name) for name in stage.needs
    }


def run_stage(name: str, config: Config, audit: Path, *, force: bool = False) -> Outcome:
    """Bring a stage of an audit up to date: nothing where it is current, else computed into a folder that appears when whole."""
    refuse_foreign_files(audit, name)
    stage, out = STAGES[name], audit / name
    inputs, params = stage_inputs(stage, config, audit), stage_params(stage, config)
    reason = "asked for" if force else why_not_current(stage, inputs, params, out)
    if reason is None:
        return Outcome(name, "current", "nothing it depends on has changed", 0.0)
    start = time.perf_counter()
    with artifact.fresh_folder(out) as folder:
        facts = stage.run(config, {need: audit / need for need in stage.needs}, folder)
        artifact.write_manifest(folder, stage=name, method=stage.method, inputs=inputs, params=params, facts=facts)
        seconds = time.perf_counter() - start
        artifact.write_json(
            folder / artifact.TIMING,
            {"seconds": round(seconds, 3), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        )
    return Outcome(name, "computed", reason, seconds)


def release_memory() -> None:
    """Let go of what stages that run in one process leave for each other: the checkpoint's weights, and hidden states."""
    close_checkpoint()
    hidden = sys.modules.get("neuronlens.activations.hidden")  # where no stage has imported it, nothing is held
    if hidden is not None:
        hidden.discard()


def refuse_foreign_files(folder: Path, stage: str) -> None:
    """A stage replaces its folder as a whole, so it must not meet one that NeuronLens did not write."""
    if folder.exists() and not folder.is_dir():
        raise UserError("is a file", where=str(folder), cure="Name a folder with --out.")
    taken = folder / stage
    if taken.exists() and not (taken / artifact.MANIFEST).exists():
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
    old, new = dict(_flat(manifest["params"])), dict(_flat(params))
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
    return (
        {key: part for key, part in value.items() if key not in ("path", "auxiliary", "questions")}
        if isinstance(value, dict)
        else value
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, part in value.items():
        found += _flat(part, f"{prefix}{key}.") if isinstance(part, Mapping) else [(prefix + key, part)]
    return found
