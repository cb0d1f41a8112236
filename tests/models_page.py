"""The table of docs/models.md, written by the proofs of tests/proofs.py: `python -m tests.models`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from neuronlens.families import FAMILIES
from neuronlens.sites import COMPONENTS
from tests.models import HEADS
from tests.proofs import proven

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- written by: python -m tests.models -->", "<!-- end -->"
_COLUMNS = ("model type", "head", "class", *COMPONENTS[:3], "resid_post = input + attn_out + mlp_out", "short cuts")


@cache
def line(family: str, head: str) -> str:
    """A line of the table. What is not proven raises AssertionError."""
    found = proven(family, head)
    short = "all" if FAMILIES[family].attention else "behind the last block"
    cells = (f"`{family}`", head.replace("_", " "), found["class"], *(found[part] for part in COMPONENTS[:3]))
    return f"| {' | '.join((*cells, found['adds up'], short))} |"


def write() -> None:
    """Prove all families and put the table between its marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    head = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    table = "\n".join([*head, *(line(family, head) for family, head in HEADS)])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
