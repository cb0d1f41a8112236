"""What a run has left: how its stages ended, and their files."""

from __future__ import annotations

from pathlib import Path

from neuronlens.artifact import TIMING
from neuronlens.stages import STAGES, Outcome


def outcomes(found: list[Outcome]) -> list[str]:
    """How each stage ended."""
    return [outcome.outcome for outcome in found]


def files(folder: Path) -> dict[str, bytes]:
    """What the stages of an audit wrote, but for when."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in STAGES
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and path.name != TIMING
    }
