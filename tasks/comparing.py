"""Comparisons of audits as the workspace keeps them, in comparisons/BEFORE--AFTER: made when one is asked for that is not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronlens import artifact, methods
from neuronlens.comparison import CHANGES, COMPARISON, SCHEMA_VERSION
from neuronlens.comparison.document import compare
from neuronlens.comparison.gates import Judged, judge_gates
from neuronlens.comparison.stored import StoredAudit
from neuronlens.comparison.transfer import transfer
from neuronlens.config import Config, GateParams
from neuronlens.errors import ArtifactError
from neuronlens.report.finished import audit_of
from tasks.surroundings import place_of


def compared(a: Path, b: Path, out: Path | None = None, *, seed: int = 0) -> tuple[Path, dict[str, Any]]:
    """Folder and comparison.json of the audit in `b` against the one in `a`; computed unless it is there and of the same artifacts.

    Raises:
        UserError: see `neuronlens.comparison.document.compare`.
    """
    folder = out or place_of(a, b)
    found = stored(a, b, folder, seed=seed)
    if found is None:
        return folder, compare(a, b, folder, seed)
    artifact.remove_stale(folder)
    return folder, found


def stored(a: Path, b: Path, folder: Path, *, seed: int = 0) -> dict[str, Any] | None:
    """comparison.json in a folder, where it is of the artifacts that the audits in `a` and `b` have now; else None.

    Raises:
        UserError: there is no finished audit in one of them.
    """
    audits = StoredAudit.open(a), StoredAudit.open(b)
    wanted = {
        f"{name} of {which}": digest
        for which, audit in zip("ab", audits, strict=True)
        for name, digest in audit.hashes.items()
    }
    if not _is_of(folder, wanted, {"seed": seed}):
        return None
    return artifact.read_versioned(folder / COMPARISON, SCHEMA_VERSION)


def transferred(a: Path, b: Path, config: Config, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Folder and transfer.json of the ranges in `a` on the checkpoint of the audit in `b`.

    Args:
        config: of the audit in `b`.

    Raises:
        UserError: see `neuronlens.comparison.transfer.transfer`.
    """
    folder = out or place_of(a, b, transferred=True)
    return folder, transfer(a, b, config, folder)


def _is_of(folder: Path, inputs: Mapping[str, str], params: Mapping[str, Any]) -> bool:
    try:
        manifest = artifact.read_manifest(folder)
    except ArtifactError:
        return False
    return bool(
        manifest["key"] == artifact.stage_key("compare", methods.COMPARE, inputs, params)
    ) and artifact.is_intact(folder)


def judged(
    gates: Mapping[str, GateParams], audit: Path, comparison: Path | None, *, first: bool = False
) -> list[Judged]:
    """Gates on the audit in a folder.

    Args:
        comparison: folder of the comparison with the audit before it.
        first: nothing came before it.

    Raises:
        ConfigError: a gate names no known number.
    """
    document = None if comparison is None else artifact.read_versioned(comparison / COMPARISON, SCHEMA_VERSION)
    if document and comparison and any(gate.method for gate in gates.values()):  # others' changes stand in the table
        document |= {"changes": artifact.read_table(comparison / CHANGES).to_pylist()}
    return judge_gates(gates, audit_of(audit), document, first=first)
