"""Everywhere that text which is not ours is put on a page, and pages on which each of these places says something else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from neuronlens.comparison.page import html as comparison_html
from neuronlens.pages.drawing import Figure
from neuronlens.report.context import Context, Links, Step
from neuronlens.report.index import added, entry, index_html
from neuronlens.report.page import html
from neuronlens.report.verdict import verdict
from tasks.surroundings import link
from tests.report import around

AUDIT = (
    "checkpoint.name",
    "checkpoint.kind",
    "checkpoint.model_type",
    "checkpoint.revision",
    "checkpoint.dtype",
    "checkpoint.device",
    "dataset.name",
    "dataset.notes",
    "dataset.prompt",
    "dataset.labels.*.text",
    "preset",
    "params.**",
    "positions.*",
    "sites.*.module",
    "findings.*.sentence",
    "trust.warnings",
    "trust.not_looked_at",
    "versions.*",
)
"""Of audit.json, beside concepts and sites; `*` is any key or item, `**` all that is below."""
COMPARISON = (
    "audits.*.audit",
    "audits.*.checkpoint.name",
    "audits.*.checkpoint.kind",
    "audits.*.checkpoint.model_type",
    "audits.*.trust.**",
    "rankings.*.saliency",
    "ranges.*.saliency",
)
"""Of comparison.json, likewise."""
OURS = (
    "artifacts.**",
    "audits.*.checkpoint.fingerprint",
    "changes.*",
    "checkpoint.fingerprint",
    "claims.*",
    "columns",
    "comparisons.**",
    "contrasts.**",
    "dataset.fingerprint",
    "examples",
    "findings.**",
    "histograms",
    "layers.joint.*.settings",
    "layers.joint.*.verdict",
    "matched.**",
    "movements.*.state",
    "results.**",
    "rows",
    "selections",
    "settings.**",
    "settings_rule",
    "summary.**",
    "texts",
)
"""Texts of audit.json, explorer.json and comparison.json that can be no others than those which the code knows, or are packed."""
Path_ = tuple[str, ...]


@contextmanager
def charts_drawn_once() -> Iterator[None]:
    """While pages of one audit are made again and again: charts hold numbers alone, so they are the same on all of them."""
    drawn: dict[str, str] = {}
    svg = Figure.svg

    def once(figure: Figure) -> str:
        key = f"{figure.template} {json.dumps(figure.data)}"
        if key not in drawn:
            drawn[key] = svg(figure)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "svg", once)
        yield


def texts_of(document: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """Where each text of a document stands, and the text."""
    if isinstance(document, str):
        yield path, document
    elif isinstance(document, Mapping):
        for key, part in document.items():
            yield from texts_of(part, (*path, key))
    elif isinstance(document, list):
        for part in document:
            yield from texts_of(part, (*path, "*"))


@cache
def stands_in(path: Path_, places: Sequence[str]) -> bool:
    """Whether one of the places is there, or is the list that it is in."""
    return any(_fits(path, place.split(".")) or _fits(path, [*place.split("."), "*"]) for place in places)


def filled(
    document: Any, places: Sequence[str], names: Mapping[str, str], texts: Sequence[str], path: Path_ = ()
) -> Any:
    """A document whose places say something else: lists hold all of the texts, and what is no list says them in one.

    Args:
        names: what concepts and sites are called instead, wherever they stand.
    """
    if isinstance(document, str):
        return in_one(texts) if stands_in(path, places) else names.get(document, document)
    if isinstance(document, Mapping):
        found = {
            names.get(key, key): filled(part, places, names, texts, (*path, key)) for key, part in document.items()
        }
        return found | dict(zip(texts, texts, strict=True)) if path[-1:] == ("versions",) else found
    if isinstance(document, list):
        if document and isinstance(document[0], str) and stands_in((*path, "*"), places):
            return list(texts)
        return [filled(part, places, names, texts, (*path, "*")) for part in document]
    return document


def in_one(texts: Sequence[str]) -> str:
    return " ".join(texts)


def context(texts: Sequence[str]) -> Context:
    """All that there can be around an audit, in their words."""
    told, numbers = in_one(texts), around.numbers
    gates = [_gate(text, place) for place, text in enumerate(texts)]
    trend = [numbers(text, 0.8, verdict=text, link=address(text)) for text in texts]
    before = numbers(told, 0.8, verdict=told, link=address(told))
    steps = [Step(text, text, 1, 0.1, text, text) for text in texts]
    made = dict(zip(texts, texts, strict=True))
    links = Links(*(address(text) for text in texts[: len(asdict(Links()))]))
    now = numbers(told, 0.7, current=True)
    return Context(gates, told, told, before, comparison(texts), [*trend, now], steps, made, told, links)


def comparison(texts: Sequence[str]) -> dict[str, Any]:
    """comparison.json of two audits, with a concept for each text; whatever else is told is called so as well."""
    plain = around.comparison()
    listed = {
        name: [row | {"concept": text} for text in texts for row in rows]
        for name, rows in plain.items()
        if name not in ("audits", "sites") and isinstance(rows, list)
    }
    sites = dict.fromkeys(plain["sites"], texts[0])
    return dict(filled(plain | listed, COMPARISON, sites, texts))


def address(name: str) -> str:
    """Of the page in a folder of that name."""
    return link(Path("/audits", re.sub(r"[/\0]", "-", name)[:60], "index.html"), Path("/audits"))


def audit_page(audit: Mapping[str, Any], explorer: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The page of an audit that is told in these words, concepts and sites among them.

    Args:
        audit, explorer: of an audit with as many concepts as there are texts.
    """
    names = dict(zip(explorer["concepts"], texts, strict=True))
    # a site is of a few words and a number, whatever the data: one of the texts is enough
    names |= {site: f"{texts[0]}.{place}" for place, site in enumerate(explorer["sites"])}
    told = (filled(document, AUDIT, names, texts) for document in (audit, explorer))
    return html(*told, context=context(texts))


def comparison_page(texts: Sequence[str]) -> str:
    """That of two audits."""
    return comparison_html(comparison(texts), context(texts))


def index_page(texts: Sequence[str]) -> str:
    """The index over audits of which each has one of these names, as has all that is told of it; every other one is a line of its own."""
    entries: list[Any] = []
    for place, text in enumerate(texts):
        made = entry(
            text,
            around.numbers(text, 0.8, link=address(text)),
            verdict([_gate(text, 1)]),
            dataset=text,
            basis="0" * 64,
            line=text if place % 2 else "",
            order=place,
            day=text,
            comparison=address(text),
        )
        entries = added(entries, made)
    return index_html(entries)


def _gate(text: str, place: int) -> dict[str, Any]:
    """A rule names a number, with a pattern of concepts behind a dot."""
    name = re.sub(r'[\s<>="]+', "-", text)
    given: dict[str, Any] = {"rule": f"selectivity.{name}* >= 0.3", "number": text, "note": text}
    if place % 3 == 0:
        return around.gate(text, "FAIL", -0.1, waived=f"{text} (until 2027-01-31)", **given)
    measured = {} if place % 3 == 1 else {"value": None, "low": None, "high": None, "margin": None}
    return around.gate(text, "NOT DECIDED", **{**measured, **given})


def _fits(path: Path_, place: Sequence[str]) -> bool:
    if place[-1:] == ["**"]:
        return len(path) >= len(place) and _fits(path[: len(place) - 1], place[:-1])
    return len(path) == len(place) and all(one in (two, "*") for one, two in zip(place, path, strict=True))
