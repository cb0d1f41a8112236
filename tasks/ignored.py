"""What git leaves alone in a workspace: a .gitignore in a folder of NeuronLens's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.whole import write_changed


def keep_out_of_git(folder: Path, names: Sequence[str], head: str) -> None:
    """Add patterns to the folder's .gitignore.

    Args:
        names: patterns that git and DVC both read.
        head: the first line of the file, as a comment. One that begins otherwise somebody else has written, and it stays as it is.
    """
    ignored = folder / ".gitignore"
    text = ignored.read_text(encoding="utf-8") if ignored.exists() else head
    if text.startswith(head):
        write_changed(ignored, text + "".join(f"{name}\n" for name in names if name not in text.splitlines()))
