"""Labelled rows of their own for each split, drawn as the example's are and seen by no model before."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from neuronlens.example.corpus import generate

ROWS = {"fit": 240, "validation": 80, "test": 200}
"""Of each concept, by split."""
SKETCH = {"fit": 20, "validation": 10, "test": 10}
_FRESH = 1_000_003  # far from any seed that an example is made with


def draw_rows(example_seed: int, splits: int, rows: Mapping[str, int]) -> list[pa.Table]:
    """Labelled rows for some splits: columns text, label and split. No text is in two of them, nor anywhere in the example.

    Args:
        example_seed: of the example whose models are measured.
        rows: of each concept, by split.
    """
    known = generate(example_seed)
    used = {row.text for row in (*known.audited, *known.training)}.union(known.training_documents, known.auxiliary)
    fresh: dict[str, list[str]] = {}
    for row in generate(example_seed + _FRESH).training:
        if row.text not in used:
            fresh.setdefault(row.label, []).append(row.text)
    names = [name for name, count in rows.items() for _ in range(count)]
    if min(map(len, fresh.values())) < splits * len(names):
        raise ValueError(f"{splits} splits of {len(names)} rows a concept are more than one draw of the corpus holds")
    found = []
    for start in range(0, splits * len(names), len(names)):
        texts = [(text, label) for label, own in sorted(fresh.items()) for text in own[start : start + len(names)]]
        columns = {"text": [text for text, _ in texts], "label": [label for _, label in texts]}
        found.append(pa.table(columns | {"split": names * len(fresh)}))
    return found
