"""The stage `report`: one static page for people, audit.json for programs, and the small files that other tools show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from neuronlens.artifact import read_json, write_json
from neuronlens.config import Config
from neuronlens.pages.environment import page, template_text
from neuronlens.report import view
from neuronlens.report.context import Context
from neuronlens.report.document import audit_document
from neuronlens.report.explorer.embedded import embedded, explorer
from neuronlens.report.findings import SALIENCY_WORDS
from neuronlens.report.markdown import summary_markdown
from neuronlens.report.metrics import metrics, plot_rows
from neuronlens.report.neurons.drawn import cards_of
from neuronlens.report.sections.concepts import concept_numbers, concept_panels
from neuronlens.report.sections.decision import audit_trust, decision
from neuronlens.report.sections.frontiers import frontiers
from neuronlens.report.sections.heatmaps import HEATMAP_WORDS, heatmap_method, heatmaps
from neuronlens.report.sections.lineage import lineage
from neuronlens.report.sections.movement import movement
from neuronlens.report.sections.negative import negatives
from neuronlens.report.table import KIND_NAMES


def report(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: report.html, audit.json, explorer.json, summary.md, metrics.json, plots/.

    Args:
        inputs: `prepare`, `extract`, `fit` and `evaluate`, the folders of those stages.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    audit = audit_document(config, inputs)
    write_json(out / "audit.json", audit)
    write_json(out / "metrics.json", metrics(audit))
    (out / "plots").mkdir()
    for name, rows in plot_rows(audit).items():
        write_json(out / "plots" / f"{name}.json", rows)
    (out / "summary.md").write_text(summary_markdown(audit), encoding="utf-8")
    write_json(out / "explorer.json", explorer(audit, inputs))
    # from the files, so that whoever makes the page again from the folder alone makes the same one
    made = html(read_json(out / "audit.json"), read_json(out / "explorer.json"))
    (out / "report.html").write_text(made, encoding="utf-8")
    verdicts = [finding["verdict"] for finding in audit["findings"]]
    return {
        "verdicts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "warnings": audit["trust"]["warnings"],
        "seed": config.seed,
    }


def html(audit: Mapping[str, Any], neurons: Mapping[str, Any] | None = None, *, context: Context | None = None) -> str:
    """The page. Text from data is escaped by Jinja, after every invisible character in it has been spelt out.

    Args:
        audit: audit.json.
        neurons: explorer.json; without it the page has no explorer, and runs no script.
        context: what stands around it; None where nobody has judged it, and the page says so.
    """
    comparison = None if context is None else context.comparison
    cards = cards_of(audit)
    selective, unlisted = view.selective_rows(cards)
    concepts, concepts_unlisted = view.concept_rows(audit)
    panels = view.effects_panels(audit)
    return page(
        "report.html",
        {
            "audit": audit,
            "decision": decision(audit_trust(audit), context),
            "trust_link": "#trust",
            "moved": None if comparison is None else movement(comparison),
            "since": None if context is None or context.before is None else context.before.name,
            "lineage": lineage(audit, context),
            "claims": view.claims(audit),
            "main": view.main_rows(audit),
            "panels": panels,
            "concept_panels": concept_panels(audit),
            "concept_numbers": concept_numbers(audit),
            "frontiers": frontiers(audit),
            "heatmaps": heatmaps(audit),
            "heatmap_method": heatmap_method(audit),
            "heatmap_words": HEATMAP_WORDS,
            "negatives": negatives(audit),
            "concepts": concepts,
            "concepts_unlisted": concepts_unlisted,
            "neurons": view.neuron_panels(cards),
            "cards": cards,
            "matched": view.matched_rows(audit),
            "layers": view.layer_rows(audit),
            "kind_names": KIND_NAMES,
            "kinds_drawn": view.kinds_drawn(panels),
            "saliency_words": SALIENCY_WORDS,
            "infinite": math.inf,
            "explorer": neurons,
            "explorer_data": "" if neurons is None else Markup.escape(embedded(audit, neurons)),
            "selective": selective,
            "unlisted": unlisted,
        },
        None if neurons is None else template_text("explorer.js"),
    )
