"""The tables of docs/performance.md, from benchmarks/results.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_PLACE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def table(titles: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every ratio of a benchmark, as Markdown.

    Args:
        titles: title -> ratios, as results.json has them.
    """
    lines = []
    for title, ratios in sorted(titles.items()):  # as JSON keeps them
        lines += [f"**{title}**", "", "| | ratio | lowest to highest | seconds |", "| --- | ---: | ---: | ---: |"]
        for ratio in ratios:
            seconds = "" if ratio["seconds"] is None else f"{ratio['seconds']:.3g}"
            spread = "" if ratio["low"] == ratio["high"] else f"{ratio['low']:.3g} to {ratio['high']:.3g}"
            lines.append(f"| {ratio['name']} | {_both(ratio['median'])} | {spread} | {seconds} |")
        lines.append("")
    return "\n".join(lines)


def _both(ratio: float) -> str:
    """A small ratio is easier to read as how many times less."""
    return f"{ratio:.3g}" if ratio > 0.7 or ratio == 0 else f"{ratio:.3g} (1 / {1 / ratio:.3g})"


def filled(document: str, results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """A document with the table of each benchmark between `<!-- NAME -->` and `<!-- end -->`."""
    return filled_with(document, {name: table(titles) for name, titles in results.items()})


def filled_with(document: str, texts: Mapping[str, str]) -> str:
    """A document with a text between each `<!-- NAME -->` and `<!-- end -->`; places of other names stay as they are."""

    def fill(place: re.Match[str]) -> str:
        name = place["name"]
        return f"<!-- {name} -->\n{texts[name].rstrip()}\n<!-- end -->" if name in texts else place[0]

    return _PLACE.sub(fill, document)


def write(results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Bring docs/performance.md up to date."""
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
