"""What a run has left: how its stages ended, their files, and what DVC says of them."""

from __future__ import annotations

import subprocess
import sys
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


def dvc(root: Path, *words: str) -> str:
    """The command line of DVC, in a workspace outside git."""
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
