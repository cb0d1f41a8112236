"""summary.md: an audit in at most ten lines, for a terminal or a comment on a pull request; of several sites also a small table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neuronlens.pages.text import code, count, markdown, points, points_between, significant
from neuronlens.report.table import KIND_NAMES, main_summaries
from neuronlens.report.view import Layers, layer_rows, spread

LINES = 10
SITES_LISTED = 12
_LINES_OF_CLAIMS = (
    *(("effect",), ("spares", "confidence", "text"), ("selective",), ("control",), ("site", "tuned_control")),
    ("tuned", "tuned_confidence", "tuned_text"),
)

_AFTER_ANOTHER = {
    **dict.fromkeys(("confidence", "tuned_confidence"), "in confidence"),
    **dict.fromkeys(("text", "tuned_text"), "on ordinary text"),
    "tuned_control": "than those of random neurons",
}


def summary_markdown(audit: Mapping[str, Any]) -> str:
    """The lines: what was audited, what was found, the deepest site's main methods, what to be wary of. Then the table of layers."""
    lines, layers = list(_lines(audit))[:LINES], layer_rows(audit)
    if layers is not None:
        lines += ["", *_layers(layers)]
    return "\n".join(lines) + "\n"


def _layers(layers: Layers) -> Iterator[str]:
    """Site by site, at most so many of them, then the best together."""
    listed = spread([row["site"] for row in layers.sites], SITES_LISTED)
    some = "" if len(listed) == len(layers.sites) else f" ({len(listed)} of {len(layers.sites)})"
    yield f"| Layers{some} | target drop | others' drop | selectivity | gain over the best site |"
    yield "| --- | --: | --: | --: | --: |"
    for row in layers.sites:
        if row["site"] in listed:
            yield _cells(row["site"], row, "")
    for row in layers.means:
        yield _cells(f"the best {row['count']} together", row, f"{_share(row, 'gain')} {row['verdict']}")


def _cells(name: str, row: Mapping[str, Any], last: str) -> str:
    shares = [_share(row, f"{group}_accuracy_drop") for group in ("target", "complement")]
    return f"| {' | '.join([name, *shares, _share(row, 'selectivity'), last])} |"


def _share(row: Mapping[str, Any], name: str) -> str:
    return f"{points(row[name])} {points_between(row[f'{name}_low'], row[f'{name}_high'])}".rstrip()


def _lines(audit: Mapping[str, Any]) -> Iterator[str]:
    checkpoint, dataset, trust = audit["checkpoint"], audit["dataset"], audit["trust"]
    yield (
        f"{code(checkpoint['name'])} ({checkpoint['fingerprint'][:8]}) on {code(dataset['name'])}: "
        f"{count(len(dataset['rows']), 'concept')}, {count(len(audit['sites']), 'site')}, preset {audit['preset']}"
    )
    for finding in audit["findings"]:
        if finding["claim"] == "known":
            yield f"- {finding['sentence']}"
    yield from _verdicts(audit)
    yield from _methods(audit)
    wary = [*trust["warnings"]]
    if trust["suffix_difference"] > trust["suffix_tolerance"]:
        wary.insert(0, "running the model from a site onwards gave other logits than running it whole")
    if trust["no_op_difference"]:
        wary.insert(0, "an edit that does nothing changed the logits")
    if wary:
        yield f"- **Beware**: {count(len(wary), 'warning')}, first: {markdown(wary[0])}"


def _verdicts(audit: Mapping[str, Any]) -> Iterator[str]:
    """One line per claim, its verdicts counted over settings and sites; what it says of confidence and of text stands on the same line."""
    for first, *others in _LINES_OF_CLAIMS:
        told = [f"{_words(audit, claim)}{_count(audit, claim)}" for claim in (first, *others) if _count(audit, claim)]
        if told:
            yield f"- {'; '.join(told)}"


def _words(audit: Mapping[str, Any], claim: str) -> str:
    return f"{_AFTER_ANOTHER.get(claim, audit['claims'][claim])}: "


def _count(audit: Mapping[str, Any], claim: str) -> str:
    found = [finding["verdict"] for finding in audit["findings"] if finding["claim"] == claim]
    told = [
        f"{verdict} {found.count(verdict)}" for verdict in ("holds", "contradicted", "not decided") if verdict in found
    ]
    return f"{', '.join(told)} (of {count(len(found), 'comparison')})" if found else ""


def _of(row: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    return (
        row["role"] == "sweep" and row["top"] == setting["top"] and row["saliency"] in (setting["saliency"], "random")
    )


def _methods(audit: Mapping[str, Any]) -> Iterator[str]:
    """The first setting's selectivity at the deepest site, method by method."""
    last, setting = audit["sites"][-1]["site"], audit["settings"][0]
    told = [
        f"{KIND_NAMES[row['kind']]} {points(row['selectivity'])} {points_between(row['selectivity_low'], row['selectivity_high'])}"
        + (f" at {significant(row['perplexity_ratio'])} x perplexity" if row["perplexity_ratio"] is not None else "")
        for row in main_summaries(audit)
        if row["site"] == last and (row["method"] == "tuned" or _of(row, setting))
    ]
    if told:
        yield f"- Selectivity in points at {last}, {setting['name']} setting: {'; '.join(told)}"
