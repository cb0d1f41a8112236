"""Files of text that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write it, in the place of what is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def write_changed(file: Path, text: str) -> None:
    """The same, only where it changes something."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_whole(file, text)
