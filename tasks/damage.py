"""What is wrong with audits that are stored. It is looked for when something has broken on them: damage is told in a line, and what
breaks on whole artifacts is a bug, which keeps its traceback.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from neuronlens.artifact import MANIFEST, damaged, hash_file, read_json, read_manifest
from neuronlens.comparison import COMPARISON
from neuronlens.errors import ArtifactError, NeuronLensError
from neuronlens.report.finished import DOCUMENT, SCHEMA_VERSION, audit_of
from neuronlens.stages import STAGES
from tasks.audits import AUDITS
from tasks.surroundings import COMPARISONS
from tasks.versioning import Workspace

_TEXT, _NUMBER, _TEXTS = {"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}
_COUNT, _COUNTS = {"type": "integer"}, {"type": "object", "additionalProperties": {"type": "integer"}}


def _facts(**known: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": [*known]}


# stage -> those of its facts that others read
_FACTS = {
    "prepare": _facts(
        checkpoint=_facts(fingerprint=_TEXT, kind=_TEXT, model_type=_TEXT, name=_TEXT),
        dataset=_facts(name=_TEXT),
        labels={"type": "object"},
        rows={"type": "object", "additionalProperties": _COUNTS},
        sites=_TEXTS,
    ),
    "extract": _facts(
        accuracy=_NUMBER, cut_rows=_COUNT, notes=_TEXTS, pooling=_TEXT, sites={"type": "object"}, widths=_COUNTS
    ),
    "fit": _facts(rows=_COUNTS, warnings=_TEXTS),
    "evaluate": _facts(device=_TEXT, dtype=_TEXT, perplexity={"type": "boolean"}, rows=_COUNT),
    "report": _facts(verdicts=_COUNTS, warnings=_TEXTS),
}


def damage_here(arguments: Sequence[str]) -> str | None:
    """The first damage to an audit that a command line names, or else to what is stored in the workspace around the current folder.

    Returns:
        A sentence that names the file and the cure; None where all is whole.
    """
    named = [Path(word) for word in arguments if _is_audit(word)]
    for folder in named or _stored():
        try:
            found = damage_to(folder)
        except NeuronLensError as error:
            return str(error)
        if found is not None:
            return str(found)
    return None


def _is_audit(word: str) -> bool:
    try:
        return any((Path(word) / name / MANIFEST).is_file() for name in STAGES)
    except (OSError, ValueError):
        return False


def _stored() -> Iterator[Path]:
    workspace = Workspace.find(Path.cwd())
    if workspace is not None:
        for beside in (AUDITS, COMPARISONS):
            yield from sorted(path for path in (workspace.root / beside).glob("*") if path.is_dir())


def damage_to(folder: Path) -> ArtifactError | None:
    """The first damage to an audit, or to a comparison; None where there is none.

    Raises:
        ArtifactError: a manifest or audit.json cannot be read at all, or is of a newer version.
    """
    if (folder / COMPARISON).is_file():
        return _to_files(folder, read_manifest(folder))
    for name in STAGES:
        if (folder / name / MANIFEST).is_file():
            manifest = read_manifest(folder / name)
            found = _to_files(folder / name, manifest) or _against(
                _FACTS[name], manifest["facts"], folder / name / MANIFEST
            )
            if found is not None:
                return found
    if (folder / DOCUMENT).is_file():
        document = audit_of(folder)
        read_json(folder / "report" / "metrics.json")
        if document["schema_version"] == SCHEMA_VERSION:
            text = (files("neuronlens.report") / "templates" / "audit.schema.json").read_text(encoding="utf-8")
            return _against(json.loads(text), document, folder / DOCUMENT)
    return None


def _to_files(folder: Path, manifest: Mapping[str, Any]) -> ArtifactError | None:
    gone = None
    for name, known in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            gone = gone or damaged(file, FileNotFoundError("it is missing"))
        elif file.stat().st_size != known["bytes"] or hash_file(file) != known["sha256"]:
            return damaged(file, ValueError("its bytes are not those that were written"))
    return gone


def _against(schema: Mapping[str, Any], value: object, file: Path) -> ArtifactError | None:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        return damaged(file, ValueError(f"{error.json_path}: {error.message[:200]}"))
    return None
