"""The worked notebook, run from top to bottom. `python -m tests.notebook` keeps what it shows; it needs the example."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "first_audit.ipynb"


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """A notebook with what its cells show in a new kernel, started in its folder. An error in a cell is raised."""
    found = nbformat.read(path, as_version=4)
    # without times, and with what a cell prints in one piece however it came, so that nothing differs from run to run
    client = NotebookClient(found, timeout=300, record_timing=False, coalesce_streams=True, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    return found


def main() -> None:
    found = executed()
    found.metadata = {name: found.metadata[name] for name in ("kernelspec",)}
    nbformat.write(found, NOTEBOOK)


if __name__ == "__main__":
    main()
