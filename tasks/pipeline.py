"""An audit as DVC sees it: a pipeline in audits/ID/dvc.yaml over the parameters in audits/ID/audit.yaml.

audit.yaml is a whole params.yaml, with the identities of what the audit is of added: fingerprints of the checkpoint and of all data, and
versions of the methods. The stages depend on these and not on paths, so that a team-mate's equal checkpoint in another place is the same
checkpoint. The pipeline of the example, dvc.yaml at the root, is written by hand and depends on files.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neuronlens.config import SHARED, Config
from neuronlens.errors import ConfigError, UserError
from neuronlens.params import AUDITED, load_config, read_audited
from neuronlens.stages import PATHS, STAGES, Stage, identities
from tasks.ignored import keep_out_of_git
from tasks.whole import write_changed

AUDIT_FILE, PIPELINE_FILE = "audit.yaml", "dvc.yaml"
IDENTITY, METHODS = f"{AUDITED}.of", f"{AUDITED}.methods"


def _bars(name: str, title: str, x: str, y: Mapping[str, str]) -> dict[str, Any]:
    """A plot with a bar for each row of a file below report/plots."""
    files = {f"report/plots/{file}.json": column for file, column in y.items()}
    return {name: {"template": "bar_horizontal", "title": title, "x": x, "y": files}}


# what dvc metrics and dvc plots show; paths are relative to the dvc.yaml
SHOWN: Mapping[str, Any] = {
    "metrics": ["report/metrics.json"],
    "plots": [
        _bars("selectivity", "Selectivity of the main methods, mean over concepts", "selectivity", {"main": "name"}),
        _bars("edited", "Selectivity by concept, at the deepest site", "selectivity", {"edited": "concept"}),
        _bars("accuracy", "Accuracy of the unedited model by concept", "accuracy", {"accuracy": "concept"}),
        {
            "drops": {
                "template": "scatter",
                "title": "Drop of accuracy on the others (x) and on the concept (y), a point a main method",
                "x": "complement_accuracy_drop",
                "y": {"report/plots/main.json": "target_accuracy_drop"},
            }
        },
    ],
}
_IGNORED = "# Artifacts, which DVC keeps. Of an audit git holds audit.yaml, dvc.yaml and dvc.lock.\n"
# pages of what stands around audits, which neuronlens report writes anew
_PAGES = ("/index.html", "/*/index.html")
_HEADS = {
    AUDIT_FILE: "# What this audit was told, and what it is of. Written by `neuronlens audit`, which reads it again with --params.\n",
    PIPELINE_FILE: "# The audit in this folder as a pipeline, for `dvc repro`. Written by `neuronlens audit`.\n",
}


@dataclass(frozen=True)
class Pipeline:
    """Where the stages of an audit are described.

    Attributes:
        root: of the workspace.
        folder: of the audit.
        file: the dvc.yaml, relative to the root.
    """

    root: Path
    folder: Path
    file: str

    def address(self, stage: str) -> str:
        """file:name of a stage."""
        return f"{self.file}:{stage}"

    def says(self, config: Config) -> bool:
        """Whether the parameters that DVC reads are those of a configuration."""
        if self.file == PIPELINE_FILE:
            own = load_config(self.root / "params.yaml")
            return own.model_copy(update={name: getattr(config, name) for name in ("gates", *SHARED)}) == config
        file = self.folder / AUDIT_FILE
        return file.is_file() and file.read_text(encoding="utf-8") == audit_text(config, self.root)


def pipeline_of(folder: Path, root: Path) -> Pipeline | None:
    """The pipeline that makes the audit in a folder, as far as it has been written; None where there is none."""
    folder, root = folder.resolve(), root.resolve()
    if not folder.is_relative_to(root):
        return None
    inner = folder.relative_to(root).as_posix()
    if _is_ours(folder / PIPELINE_FILE):
        return Pipeline(root, folder, f"{inner}/{PIPELINE_FILE}")
    if f"{inner}/report" in _root_outputs(root):
        return Pipeline(root, folder, PIPELINE_FILE)
    return None


def _is_ours(file: Path) -> bool:
    """Whether it is there, and NeuronLens has written it."""
    head = _HEADS[file.name].splitlines()[0].encode()
    return file.is_file() and file.read_bytes()[: len(head)] == head


def refuse_foreign_descriptions(folder: Path) -> None:
    """An audit's description takes the place of no file that NeuronLens did not write.

    Raises:
        UserError: it would.
    """
    for name in _HEADS:
        file = folder / name
        if os.path.lexists(file) and not _is_ours(file):
            raise UserError(
                "is no file of NeuronLens, and the audit would replace it",
                where=str(file),
                cure="Name another folder with --out, or move it away.",
            )


def stage_making(path: Path, root: Path) -> str | None:
    """Address of the stage in the root's dvc.yaml that makes a file or folder; None where none does."""
    path, root = path.resolve(), root.resolve()
    name = _root_outputs(root).get(path.relative_to(root).as_posix()) if path.is_relative_to(root) else None
    return None if name is None else f"{PIPELINE_FILE}:{name}"


def describe(config: Config, folder: Path, root: Path) -> Pipeline:
    """Write the pipeline of the audit in a folder below root/audits, or find that it is the one of the root.

    Raises:
        UserError: the root's pipeline makes this folder from other parameters.
    """
    known = pipeline_of(folder, root)
    if known is not None and known.file == PIPELINE_FILE:
        if not known.says(config):
            raise UserError(
                "is made by dvc.yaml from params.yaml, which says something else",
                where=str(folder),
                cure="Change params.yaml, or drop --out: the audit then gets a folder of its own.",
            )
        return known
    folder, root = folder.resolve(), root.resolve()
    found = Pipeline(root, folder, f"{folder.relative_to(root).as_posix()}/{PIPELINE_FILE}")
    write_changed(folder / AUDIT_FILE, audit_text(config, root))
    write_changed(folder / PIPELINE_FILE, pipeline_text(config, found))
    # by name: DVC takes a pattern such as /*/*/ for one that ignores dvc.yaml, too, and then knows no pipeline
    keep_out_of_git(folder.parent, [*(f"/*/{name}/" for name in STAGES), *_PAGES], _IGNORED)
    return found


def written_by(config: Config, folder: Path, root: Path) -> dict[str, Any]:
    """file -> content of what `describe` would write, relative to the root."""
    inner = folder.resolve().relative_to(root.resolve()).as_posix()
    found = Pipeline(root, folder, f"{inner}/{PIPELINE_FILE}")
    texts = {found.file: pipeline_text(config, found), f"{inner}/{AUDIT_FILE}": audit_text(config, root.resolve())}
    return {file: yaml.safe_load(text) for file, text in texts.items()}


def audit_text(config: Config, root: Path) -> str:
    """audit.yaml."""
    values = config.model_dump(mode="json", exclude={*SHARED})
    for section, key in (
        ("checkpoint", "path"),
        ("dataset", "path"),
        ("evaluate", "auxiliary"),
        ("evaluate", "questions"),
    ):
        values[section][key] = _portable(values[section][key], root)
    values[AUDITED] = _audited(config)
    return _HEADS[AUDIT_FILE] + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=140)


def pipeline_text(config: Config, found: Pipeline) -> str:
    """dvc.yaml of an audit."""
    folder = Path(found.file).parent.as_posix()
    up = "/".join([".."] * len(Path(folder).parts))
    command = shlex.quote(folder).replace("${", r"\${")
    folder = folder.replace("${", r"\${")  # which DVC would take for a parameter's name
    stages = {
        stage.name: {
            "wdir": up,
            "cmd": f"neuronlens stage {stage.name} --out {command}",
            **({"deps": [f"{folder}/{need}" for need in stage.needs]} if stage.needs else {}),
            "params": [{f"{folder}/{AUDIT_FILE}": [*_keys(stage, config)]}],
            "outs": [f"{folder}/{stage.name}"],
        }
        for stage in STAGES.values()
    }
    return _HEADS[PIPELINE_FILE] + yaml.safe_dump({"stages": stages, **SHOWN}, sort_keys=False, width=140)


def check_audited(config: Config, folder: Path) -> None:
    """Refuse to compute a stage whose audit.yaml was written for another checkpoint, other data or another version of NeuronLens.

    DVC would record the result as that of what audit.yaml names.

    Raises:
        ConfigError: what differs.
    """
    file = folder / AUDIT_FILE
    written = read_audited(file) if file.is_file() else None
    if written is None:
        return
    now = _audited(config)
    for kind, what in (
        ("of", "the {} is not the one that this audit is of"),
        ("methods", "it was made for another method of {}"),
    ):
        for name, value in now[kind].items():
            if written.get(kind, {}).get(name) != value:
                raise ConfigError(
                    what.format(name),
                    where=str(file),
                    cure=f"Audit what is there now: neuronlens audit --params {file}.",
                )


def _audited(config: Config) -> dict[str, dict[str, Any]]:
    return {"of": identities(config), "methods": {stage.name: stage.method for stage in STAGES.values()}}


def _keys(stage: Stage, config: Config) -> Iterator[str]:
    """The keys of audit.yaml that a stage depends on. Of sections that name files, everything but the names."""
    yield f"{METHODS}.{stage.name}"
    yield from (f"{IDENTITY}.{name}" for name in stage.outside)
    for name in stage.params:
        value: Any = config.model_dump(mode="json")
        known = []
        for key in name.split("."):
            if value is None:  # the section is switched off, and has no such key
                break
            value = value[key]
            known.append(key)
        inner = [*value] if isinstance(value, Mapping) and {*PATHS} & {*value} else []
        yield from (f"{name}.{key}" for key in inner if key not in PATHS)
        if not inner:
            yield ".".join(known)


def _portable(path: str | None, root: Path) -> str | None:
    """A file or folder relative to the root where it lies there, else as it is found from anywhere; what is no path stays."""
    if not path or not Path(path).expanduser().exists():
        return path
    found = Path(path).expanduser().resolve()
    return found.relative_to(root).as_posix() if found.is_relative_to(root) else str(found)


def _root_outputs(root: Path) -> dict[str, str]:
    """Output -> stage of the pipeline at the root."""
    file = root / PIPELINE_FILE
    if not file.is_file():
        return {}
    try:
        stages = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("stages") or {}
        return {
            next(iter(out)) if isinstance(out, dict) else out: name
            for name, stage in stages.items()
            for out in stage.get("outs", ())
        }
    except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no pipeline ({error})", where=str(file), cure="See dvc repro --dry.") from None
