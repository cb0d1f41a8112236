"""Files of text that stay as they are where nothing in them changes."""

from __future__ import annotations

from pathlib import Path

from neuronlens.artifact import write_whole


def write_changed(file: Path, text: str) -> None:
    """Write a file whole, only where it changes something."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_whole(file, text)
