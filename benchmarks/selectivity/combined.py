"""Several splits together: means with limits that say what other rows would give for these models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.selectivity.measured import MEASURED, Findings
from benchmarks.selectivity.tables import Row


def combine(runs: Mapping[tuple[str, int], Findings]) -> dict[str, list[Row]]:
    """Means over splits, and over concepts where there are several.

    Args:
        runs: (model, seed) -> findings.

    Returns:
        matched: value and limits of each split, their means, and how many (concept, split) pairs reach the drop, by both methods and by
            either.
        frontier: mean drop of the complement, and share of (concept, split) pairs that reach the drop.
        best: mean over concepts and splits, then lowest and highest split; and how often each setting was chosen.
        contrasts: as matched.
    """
    matched = []
    for key, rows in _groups(runs, "matched", ("site", "method", "against", "measure", "target_drop")):
        concepts = [len({row["concept"] for row in runs[key["model"], row["split"]].best}) for row in rows]
        matched.append(
            key
            | {"reached": sum(row["concepts"] for row in rows), "pairs": sum(concepts)}
            | {"method_reaches": sum(row["method_reaches"] for row in rows)}
            | {"other_reaches": sum(row["other_reaches"] for row in rows)}
            | {name: _averaged(rows, name, ("_low", "_high")) for name in ("selectivity", "log_perplexity")}
        )
    frontier = []
    for key, rows in _groups(runs, "frontier", ("site", "family", "measure", "target_drop")):
        reached = [row["complement_drop"] for row in rows if row["reached"]]
        mean = float(np.mean(reached)) if reached else None
        frontier.append(key | {"complement_drop": mean, "reached": len(reached), "pairs": len(rows)})
    best = []
    for key, rows in _groups(runs, "best", ("site", "family")):
        row = key | {"settings": dict(Counter(one["setting"] for one in rows).most_common())}
        for name in MEASURED:
            splits = [
                float(np.mean([one[name] for one in rows if one["split"] == seed]))
                for seed in sorted({one["split"] for one in rows})
                if all(one[name] is not None for one in rows)
            ]
            row[name] = [float(np.mean(splits)), min(splits), max(splits)] if splits else None
        best.append(row)
    contrasts = [
        key | {"difference": _averaged(rows, "", ("low", "high"), "mean")}
        for key, rows in _groups(runs, "contrasts", ("site", "method", "against", "effect"))
    ]
    return {"matched": matched, "frontier": frontier, "best": best, "contrasts": contrasts}


def _groups(
    runs: Mapping[tuple[str, int], Findings], name: str, keys: Sequence[str]
) -> Iterator[tuple[Row, list[Row]]]:
    """Rows that agree in model and keys, over all splits, each naming its split."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for (model, seed), findings in runs.items():
        for row in getattr(findings, name):
            found.setdefault((model, *(row[key] for key in keys)), []).append(row | {"split": seed})
    for values, rows in found.items():
        yield dict(zip(("model", *keys), values, strict=True)), rows


def _averaged(rows: Iterable[Row], name: str, ends: tuple[str, str], value: str | None = None) -> Row | None:
    """Mean of the splits' values, with limits as of other rows or the same documents; None where no split has a value."""
    columns = (value or name, *(f"{name}{end}" for end in ends))
    numbers = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
    numbers = numbers[np.isfinite(numbers).all(axis=1)]
    if not len(numbers):
        return None
    mean = float(numbers[:, 0].mean())
    own = np.abs(numbers[:, 1:] - numbers[:, :1])
    down, up = own.mean(axis=0) if name == "log_perplexity" else np.linalg.norm(own, axis=0) / len(numbers)
    return {"mean": mean, "low": mean - float(down), "high": mean + float(up), "splits": numbers.tolist()}
