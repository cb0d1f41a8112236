"""What was found, as it is told: the table that docs/findings.md quotes, its reading in words, and every number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuronlens.evaluation.matched import LEVELS

Row = dict[str, Any]


def verdict(estimate: Row | None) -> str:
    """`above`, `below` or `undecided`, by whether the interval is clear of zero; `unreached` where there is nothing to compare."""
    if estimate is None:
        return "unreached"
    return "above" if estimate["low"] > 0 else "below" if estimate["high"] < 0 else "undecided"


def readings(matched: Sequence[Row], frontier: Sequence[Row]) -> list[str]:
    """Where the paper's claim holds, where the tuned method beats the paper's, and how much room the paper's method leaves."""
    claim, tuned = (
        "; ".join([*(_tally(matched, *pair, by) for by in ("accuracy", "confidence")), *_costs(matched, *pair)])
        for pair in (("paper", "whole"), ("tuned", "paper"))
    )
    return [
        f"The paper's claim, that ranges spare the other concepts more than whole neurons at the same drop of the target, {claim}.",
        f"The tuned method, against the paper's at the same drop of the target, {tuned}.",
        f"Under the paper's method the others lose {_room(frontier, 'accuracy')} and {_room(frontier, 'confidence')} at those drops "
        "(below zero they gain), so much can be spared and no more.",
    ]


def _room(frontier: Sequence[Row], measure: str) -> str:
    """What the complement loses under the paper's method, from the best to the worst place."""
    drops = [
        100 * row["complement_drop"]
        for row in frontier
        if (row["family"], row["measure"]) == ("paper", measure) and row["complement_drop"] is not None
    ]
    return f"{min(drops):+.1f} to {max(drops):+.1f} points of {measure}" if drops else f"no known {measure}"


def _tally(matched: Sequence[Row], method: str, against: str, measure: str) -> str:
    """In how many places one method is more selective, and in which it is not."""
    rows = [row for row in matched if _is(row, method, against, measure)]
    found: dict[str, list[Row]] = {name: [] for name in ("above", "below", "undecided", "unreached")}
    for row in rows:
        found[verdict(row["selectivity"])].append(row)
    known = len(rows) - len(found["unreached"])
    holds = "holds" if method == "paper" else "is ahead"
    parts = [f"in {measure} {holds} in {len(found['above'])} of {known} comparisons"]
    for name, words in (("below", "the reverse"), ("undecided", "undecided"), ("unreached", "not reached by both")):
        if len(found[name]) == (len(rows) if name == "unreached" else known) > 0:
            parts.append(f"{words} in all")
        elif found[name]:
            parts.append(f"{words} in {len(found[name])} ({_places(found[name])})")
    return ", ".join(parts)


def _costs(matched: Sequence[Row], method: str, against: str) -> Iterator[str]:
    """In how many places one method costs less perplexity; nothing where none was measured."""
    count = _count(row["log_perplexity"] for row in matched if _is(row, method, against, "accuracy"))
    known = sum(count.values()) - count["unreached"]
    if known:
        yield f"perplexity is lower in {count['below']} of {known}, higher in {count['above']}"


def _places(rows: Sequence[Row]) -> str:
    """Rows by model and site, with their target drops."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(_where(row), []).append(row["target_drop"])
    drops = {
        place: "all drops" if len(levels) == len(LEVELS) else ", ".join(f"{level:.0%}" for level in levels)
        for place, levels in found.items()
    }
    return "; ".join(f"{place} at {words}" for place, words in drops.items())


def markdown(found: Mapping[str, Sequence[Row]], splits: int, families: Sequence[str]) -> str:
    """The two tables and their reading, as short as they can be quoted.

    Args:
        families: in their order.
    """
    matched = found["matched"]
    lines = [
        *readings(matched, found["frontier"]),
        "",
        f"Tuned minus the paper's method at the same target drop, mean over {splits} splits [95 %]; perplexity as a "
        "ratio at matched accuracy; last column: the paper's ranges minus whole neurons at the same five drops. Bold: clear of zero; with "
        "* not every concept of every split reaches the drop; - none by both methods (how many by the tuned one, and by the paper's).",
        "",
        f"| model, site | measure | {' | '.join(f'{level:.0%}' for level in LEVELS)} | ranges - whole |",
        "|---|---|" + "---:|" * len(LEVELS) + "---|",
    ]
    for place in dict.fromkeys(map(_where, matched)):
        here = [row for row in matched if _where(row) == place]
        for title, by, column in (
            ("accuracy", "accuracy", "selectivity"),
            ("confidence", "confidence", "selectivity"),
            ("perplexity", "accuracy", "log_perplexity"),
        ):
            tuned, paper = (
                [row for row in here if _is(row, *pair, by)] for pair in (("tuned", "paper"), ("paper", "whole"))
            )
            if all(row[column] is None for row in tuned):
                continue
            cells = [_cell(row, column) for row in tuned]
            claim = " ".join(_bold(row[column], column) for row in paper)
            lines.append(f"| {place} | {title} | {' | '.join(cells)} | {claim} |")
    places = list(dict.fromkeys(map(_where, found["best"])))
    lines += [
        "",
        "At its own best setting: selectivity / confidence selectivity / perplexity ratio (target drop); last column: in how many of the "
        "comparisons at matched drops the tuned method is ahead of it, and behind.",
        "",
        f"| family | {' | '.join(places)} | tuned ahead, behind |",
        "|---|" + "---|" * (len(places) + 1),
    ]
    for family in families:
        own = {_where(row): row for row in found["best"] if row["family"] == family}
        count = _count(row["selectivity"] for row in matched if row["method"] == "tuned" and row["against"] == family)
        known = sum(count.values()) - count["unreached"]
        tally = f"{count['above']}, {count['below']} of {known}" if known else ""
        lines.append(f"| {family} | {' | '.join(_best(own[place]) for place in places)} | {tally} |")
    return "\n".join(lines) + "\n"


def _where(row: Row) -> str:
    return f"{row['model'].replace('_', ' ')}, {row['site']}"


def _is(row: Row, method: str, against: str, measure: str) -> bool:
    return (row["method"], row["against"], row["measure"]) == (method, against, measure)


def _count(estimates: Iterable[Row | None]) -> dict[str, int]:
    found = dict.fromkeys(("above", "below", "undecided", "unreached"), 0)
    for estimate in estimates:
        found[verdict(estimate)] += 1
    return found


def _number(value: float, column: str) -> str:
    return f"{np.exp(value):.2f}" if column == "log_perplexity" else f"{value:+.3f}"


def _bold(estimate: Row | None, column: str) -> str:
    if estimate is None:
        return "-"
    value = _number(estimate["mean"], column)
    return f"**{value}**" if verdict(estimate) in ("above", "below") else value


def _cell(row: Row, column: str) -> str:
    estimate = row[column]
    if estimate is None:
        return f"- ({row['method_reaches']}, {row['other_reaches']} of {row['pairs']})"
    low, high = (_number(estimate[end], column) for end in ("low", "high"))
    return f"{_bold(estimate, column)} [{low}, {high}]{'*' if row['reached'] < row['pairs'] else ''}"


def _best(row: Row) -> str:
    """Means over splits of a family at its own best."""
    accuracy, confidence, drop = (
        row[name][0] for name in ("selectivity", "confidence_selectivity", "target_accuracy_drop")
    )
    cost = row["log_perplexity_ratio"]
    ratio = "" if cost is None else f" / {np.exp(cost[0]):.2f}"
    return f"{accuracy:.2f} / {confidence:.2f}{ratio} ({drop:.2f})"


def write_results(file: Path, found: Mapping[str, Sequence[Row]], facts: Row) -> None:
    """Every number, rounded to five digits behind the point, one row of a table on each line."""
    parts = [
        f'  "{name}": [\n' + ",\n".join(f"    {json.dumps(_rounded(row), allow_nan=False)}" for row in rows) + "\n  ]"
        for name, rows in found.items()
    ]
    parts += [f'  "{name}": {json.dumps(value, allow_nan=False)}' for name, value in facts.items()]
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value
