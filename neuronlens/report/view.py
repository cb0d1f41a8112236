"""What the page shows of an audit: which sites, methods, concepts and neurons are drawn, and the charts themselves.

A page holds what a person can look at. What is left out is counted, said on the page, and kept in audit.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.pages.drawing import Figure
from neuronlens.pages.figures.densities import drawn_bins, histogram
from neuronlens.pages.figures.effects import effects
from neuronlens.pages.figures.quantiles import probabilities, quantile_plot
from neuronlens.report.layers import joint_concepts, joint_means
from neuronlens.report.neurons.drawn import Card
from neuronlens.report.table import KIND_NAMES, is_main, main_summaries

Row = Mapping[str, Any]

SITES_DRAWN = 6
METHODS_DRAWN = 60
CONCEPTS_DRAWN = 8
ROWS_LISTED = 240


@dataclass(frozen=True)
class EffectsPanel:
    """A site's scatter: its chart, the main methods for the caption, the methods drawn, and how many were left out."""

    site: str
    figure: Figure
    main: Sequence[Row]
    rows: Sequence[Row]
    left_out: int


@dataclass(frozen=True)
class NeuronPanel:
    """A neuron's charts: its card, histogram, Q-Q plot, and the bins drawn as (from, to, target rows, complement rows)."""

    card: Card
    figure: Figure
    quantiles: Figure
    bins: Sequence[tuple[float, float, int, int]]


@dataclass(frozen=True)
class Claim:
    """A claim at one setting (the `place`-th; 0: none): how often it holds, and the findings spelt out."""

    claim: str
    setting: Row | None
    place: int
    verdicts: Mapping[str, int]
    findings: Sequence[Row]


def claims(audit: Row) -> list[Claim]:
    """Findings grouped by setting, then claim, in their fixed order."""
    settings = {setting["name"]: setting for setting in audit["settings"]}
    places = [None, *settings]
    groups: dict[tuple[str | None, str], list[Row]] = {}
    for finding in audit["findings"]:
        groups.setdefault((finding["setting"], finding["claim"]), []).append(finding)
    return [
        Claim(
            claim,
            settings.get(setting or ""),
            places.index(setting),
            {
                verdict: count
                for verdict in ("holds", "contradicted", "not decided")
                if (count := sum(finding["verdict"] == verdict for finding in found))
            },
            found,
        )
        for (setting, claim), found in groups.items()
    ]


def spread(names: Sequence[str], limit: int) -> list[str]:
    """At most `limit` of the names, evenly spaced with the first and the last among them."""
    if len(names) <= limit:
        return list(names)
    return [names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)]


def effects_panels(audit: Row) -> list[EffectsPanel]:
    """One panel per site drawn, all on the same axes."""
    main = {(row["site"], row["method"]) for row in main_summaries(audit)}
    drawn: dict[str, list[Row]] = {}
    total: dict[str, int] = {}
    for site in spread([row["site"] for row in audit["sites"]], SITES_DRAWN):
        own = [row for row in audit["summary"] if row["site"] == site and _is_drawn(row)]
        first = sorted(
            own, key=lambda row: (row["site"], row["method"]) not in main
        )  # stable: main methods, then the sweep's order
        drawn[site], total[site] = first[:METHODS_DRAWN], len(own)
    points = {site: [_point(row, audit, main) for row in rows] for site, rows in drawn.items()}
    ends = [
        value
        for rows in points.values()
        for row in rows
        for name, value in row.items()
        if name.startswith(("target", "complement")) and value is not None and (row["main"] or name in _CENTRES)
    ]
    low, high = min([0.0, *ends]), max([5.0, *ends])
    return [
        EffectsPanel(
            site,
            effects(points[site], (low, high), (low, high)),
            [row for row in rows if (site, row["method"]) in main],
            rows,
            total[site] - len(rows),
        )
        for site, rows in drawn.items()
    ]


def kinds_drawn(panels: Sequence[EffectsPanel]) -> list[str]:
    """The kinds of method in any panel, in the order of the legend."""
    drawn = {row["kind"] for panel in panels for row in panel.rows}
    return [kind for kind in KIND_NAMES if kind in drawn]


def main_rows(audit: Row) -> dict[str, list[Row]]:
    """Site -> the means of its main methods."""
    found: dict[str, list[Row]] = {}
    for row in main_summaries(audit):
        found.setdefault(row["site"], []).append(row)
    return found


def matched_rows(audit: Row) -> dict[str, list[Row]]:
    """Site -> tuned ranges against the published method at equal target drops, for the sites drawn."""
    drawn = spread([row["site"] for row in audit["sites"]], SITES_DRAWN)
    found = {
        site: [row for row in audit["matched"] if (row["site"], row["against"]) == (site, "paper")] for site in drawn
    }
    return {site: rows for site, rows in found.items() if rows}


@dataclass(frozen=True)
class Layers:
    """The tuned method at each site alone, at the best sites together as means over concepts, and that concept by concept."""

    sites: Sequence[Row]
    means: Sequence[Row]
    concepts: Sequence[Row]
    unlisted: int


def layer_rows(audit: Row) -> Layers | None:
    """What there is to compare; None where that is a single site, or nothing was tuned."""
    sites, concepts = audit["layers"]["sites"], joint_concepts(audit)
    if len(sites) < 2:
        return None
    return Layers(sites, joint_means(audit), concepts[:ROWS_LISTED], len(concepts[ROWS_LISTED:]))


def concept_rows(audit: Row) -> tuple[dict[str, list[Row]], int]:
    """Site -> its main methods' rows, concept by concept, for the sites drawn as far as they fit; and how many rows are not listed."""
    mine = [row for row in audit["results"] if is_main(row, audit)]
    order = {row["method"]: place for place, row in enumerate(main_summaries(audit))}
    listed: dict[str, list[Row]] = {}
    room = ROWS_LISTED
    for site in reversed(spread([row["site"] for row in audit["sites"]], SITES_DRAWN)):  # the deepest first
        own = sorted(
            (row for row in mine if row["site"] == site), key=lambda row: (str(row["concept"]), order[row["method"]])
        )
        listed[site] = own[:room]
        room -= len(listed[site])
    return {site: rows for site, rows in listed.items() if rows}, len(mine) - sum(map(len, listed.values()))


def neuron_panels(cards: Mapping[str, Sequence[Card]]) -> dict[str, list[NeuronPanel]]:
    """Concept -> panels of its most selective neurons, for the concepts drawn."""
    return {concept: [_panel(card) for card in cards[concept]] for concept in spread(sorted(cards), CONCEPTS_DRAWN)}


def _panel(card: Card) -> NeuronPanel:
    drawn = histogram(card.edges, card.target, card.complement, card.lower, card.upper)
    n = int(card.target.sum())
    return NeuronPanel(
        card, drawn, quantile_plot(card.quantiles(probabilities(n)), card.mean, card.std, n), _bins(card)
    )


def selective_rows(cards: Mapping[str, Sequence[Card]]) -> tuple[dict[str, Sequence[Card]], int]:
    """Concept -> its most selective neurons, as far as they fit into a table; and how many do not."""
    listed: dict[str, Sequence[Card]] = {}
    room = ROWS_LISTED
    for concept in sorted(cards):
        listed[concept] = cards[concept][:room]
        room -= len(listed[concept])
    unlisted = sum(map(len, cards.values())) - (ROWS_LISTED - room)
    return {concept: rows for concept, rows in listed.items() if rows}, unlisted


_CENTRES = ("target", "complement")
_TAGS = {"reference": "R", "contrastive": "C", "fallback": "F"}
_CHOSEN = "T"


def _is_drawn(row: Row) -> bool:
    """Whether a method has a place of its own: what was chosen repeats a candidate, and candidates' controls are of use when chosen."""
    if row["role"] == "tuned":
        return bool(row["kind"] == "tuned")
    return row["kind"] != "other_concept" and row["method"] not in ("paper", "whole", "tuned/other_concept")


def _point(row: Row, audit: Row, main: set[tuple[str, str]]) -> dict[str, Any]:
    names = [setting["name"] for setting in audit["settings"] if setting["saliency"] == row["saliency"]]
    point: dict[str, Any] = {
        "kind": row["kind"],
        "main": (row["site"], row["method"]) in main,
        "tag": _CHOSEN
        if row["method"] == "tuned"
        else _TAGS[names[0]]
        if names and row["kind"] in ("gaussian", "full")
        else "",
    }
    for group in _CENTRES:
        for end in ("", "_low", "_high"):
            share = row[f"{group}_accuracy_drop{end}"]
            point[group + end] = None if share is None else 100 * share
    return point


def _bins(card: Card) -> list[tuple[float, float, int, int]]:
    edges, target, complement = (part.tolist() for part in drawn_bins(card.edges, card.target, card.complement))
    return list(zip(edges[:-1], edges[1:], target, complement, strict=True))
