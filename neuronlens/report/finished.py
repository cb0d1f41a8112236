"""A finished audit, found by its folder: audit.json, and what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronlens.artifact import read_manifest, read_versioned
from neuronlens.errors import UserError, did_you_mean

DOCUMENT = Path("report") / "audit.json"
SCHEMA_VERSION = 6
"""Of audit.json."""


def audit_of(audit: Mapping[str, Any] | Path | str) -> Mapping[str, Any]:
    """audit.json.

    Args:
        audit: the document itself, or the folder of an audit.

    Raises:
        UserError: the folder holds no finished audit.
        ArtifactError: the document is damaged, or of a newer NeuronLens.
    """
    if isinstance(audit, Mapping):
        return audit
    return read_versioned(document_of(Path(audit)), SCHEMA_VERSION)


def document_of(folder: Path) -> Path:
    """The file audit.json of the audit in a folder.

    Raises:
        UserError: it holds no finished audit.
    """
    file = folder / DOCUMENT
    if file.is_file():
        return file
    beside = folder.parent
    known = sorted(path.parents[1] for where in (beside, beside / "audits") for path in where.glob(f"*/{DOCUMENT}"))
    raise UserError(
        "holds no finished audit" if folder.is_dir() else "no such folder",
        where=str(folder),
        cure=did_you_mean(str(folder), map(str, known))
        if known
        else "Name the folder of an audit: neuronlens list shows them.",
    )


def measured_on(audit: Path) -> str | None:
    """Hash of the text that an audit has measured perplexity on; None where it has not."""
    manifest = read_manifest(audit / "evaluate")
    return manifest["inputs"]["auxiliary"] if manifest["facts"]["perplexity"] else None
