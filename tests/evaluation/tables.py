"""Labelled rows as the table that an audit reads, and the tables that it writes."""

from __future__ import annotations

import pyarrow as pa


def table_of(rows):
    """Labelled text as a table, from (text, label, split)."""
    return pa.table(dict(zip(("text", "label", "split"), map(list, zip(*rows, strict=True)), strict=True)))


def rows_of(dataset):
    """(text, label, split) of each row."""
    return list(zip(dataset.text, dataset.concept, dataset.split, strict=True))


def tables_at(folder):
    """Paths in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
