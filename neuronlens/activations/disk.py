"""Disk: what an extraction takes there, which decides whether rows are kept, and whether there is room for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuronlens.config import ExtractParams
from neuronlens.errors import UserError
from neuronlens.streaming.summary import STORED_GROUP_BYTES

SUMMARIES = 8  # parts of an extraction that keeps no rows: each is as large as the whole
_STORED_SHARE = {"float32": 0.85, "float16": 0.5, "bfloat16": 0.35}  # of float32, compressed


@dataclass(frozen=True)
class Stored:
    """What an extraction leaves on disk, estimated before it runs from the data and the model alone.

    Attributes:
        rows: bytes of the activations of all rows.
        summary: bytes of statistics in their place.
        keeps_rows: which of the two it is.
        sentence: what a reader should know of that; empty where rows are kept because nothing speaks against it.
    """

    rows: int
    summary: int
    keeps_rows: bool
    sentence: str

    @classmethod
    def of(cls, params: ExtractParams, widths: Sequence[int], rows: int, concepts: int, dtype: str) -> Stored:
        """Decide.

        Args:
            widths: of the sites.
            rows: of all splits.
            dtype: of the weights, without `torch.`; values that come from few bits take less.
        """
        neurons = sum(widths)
        kept = int(4 * neurons * rows * _STORED_SHARE.get(dtype, 1.0))
        # of each concept, of rows that are predicted right and of others
        summary = 2 * concepts * neurons * STORED_GROUP_BYTES
        if params.keep_rows is True or (params.keep_rows == "auto" and kept <= params.disk_budget):
            return cls(kept, summary, True, "")
        asked = "extract.keep_rows=false"
        if params.keep_rows == "auto":
            asked = f"they would take about {size(kept)}, more than extract.disk_budget={size(params.disk_budget)}"
        return cls(kept, summary, False, f"activations of single rows were not kept ({asked}), their statistics were")

    @property
    def final(self) -> int:
        """Bytes that stay."""
        return self.rows if self.keeps_rows else self.summary

    @property
    def most(self) -> int:
        """Bytes taken while it runs, parts included."""
        return self.rows if self.keeps_rows else (SUMMARIES + 1) * self.summary


def check_room(folder: Path, needed: int) -> None:
    """Refuse what does not fit.

    Args:
        folder: where it goes; need not exist yet.
        needed: bytes.

    Raises:
        UserError: the disk has less room.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"extraction takes about {size(needed)}, and {size(free)} are free",
            where=str(folder),
            cure="Free some, name another disk with --out, read fewer extract.sites, or set extract.keep_rows=false.",
        )


def taken(folder: Path) -> int:
    """Bytes of the files in a folder, which need not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: int) -> str:
    """Bytes in words."""
    if count < 10**6:
        return f"{max(1, round(count / 1e3)):,} kB" if count else "0 kB"
    return f"{count / 1e6:,.0f} MB" if count < 10**10 else f"{count / 1e9:,.0f} GB"
