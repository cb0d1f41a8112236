"""Charts of an audit's results: what each method takes from a concept and from the others, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.artifact import slug
from neuronlens.errors import SiteError, UserError, did_you_mean
from neuronlens.evaluation.summary import summarise
from neuronlens.pages.figures.effects import effects as draw_effects
from neuronlens.pages.figures.heatmap import heatmap as draw_heatmap
from neuronlens.pages.standalone import TITLE_LENGTH, stand_alone, svg_file
from neuronlens.pages.text import visible
from neuronlens.report import view
from neuronlens.report.finished import audit_of
from neuronlens.report.sections.concepts import NUMBERED, concept_numbers, concept_panels
from neuronlens.report.sections.frontiers import FrontierPanel, frontiers
from neuronlens.report.sections.heatmaps import HEATMAP_WORDS, heatmaps
from neuronlens.report.table import KIND_NAMES, kind_of
from neuronlens.sites import Site

if TYPE_CHECKING:
    import pyarrow as pa

    from neuronlens.pages.drawing import Chart

Audit = Mapping[str, Any] | Path | str
"""audit.json, or the folder of an audit."""

_ENDS = ("", "_low", "_high")


def effects(audit: Audit, site: str | None = None) -> Chart:
    """Drop on the target against drop on the others: a point a method, means over concepts, with 95 % crosses for the main ones.

    Args:
        site: the deepest unless told otherwise.
    """
    document = _at(audit, site)
    (panel,) = view.effects_panels(document)
    kinds = {kind: KIND_NAMES[kind] for kind in view.kinds_drawn([panel])}
    named = [f"{setting['name'][0].upper()} {setting['name']}" for setting in document["settings"]]
    note = f"filled, with 95 % crosses: {', '.join([*named, *(['T tuned'] if 'tuned' in kinds else [])])}"
    title = f"Drop on a concept and on the others, {panel.site}"
    return stand_alone(panel.figure, title, {"kind": kinds}, [note])


def methods(results: pa.Table, site: str | None = None) -> Chart:
    """The same for what `evaluate_methods` measured: a numbered point a method, means over concepts, with 95 % crosses.

    Args:
        results: the table that it returns.
        site: the deepest unless told otherwise.
    """
    rows = results.to_pylist()
    where = max({row["site"] for row in rows}, key=Site.parse) if site is None else site
    summary = summarise(row for row in rows if row["site"] == where)
    told = summary if len(summary) <= NUMBERED else []
    points = [
        {"kind": kind_of(row), "main": True, "tag": str(number) if told else ""}
        | {
            f"{group}{end}": _points(row[f"{group}_accuracy_drop{end}"])
            for group in ("target", "complement")
            for end in _ENDS
        }
        for number, row in enumerate(summary, 1)
    ]
    ends = [value for point in points for value in point.values() if isinstance(value, float)]
    axis = min([0.0, *ends]), max([5.0, *ends])
    kinds = {kind: name for kind, name in KIND_NAMES.items() if kind in {point["kind"] for point in points}}
    named = [f"{number} {row['method']}" for number, row in enumerate(told, 1)]
    title = f"Drop on a concept and on the others, {where}"
    return stand_alone(draw_effects(points, axis, axis), title, {"kind": kinds}, named)


def concepts(audit: Audit, method: str = "tuned", site: str | None = None) -> Chart:
    """One method, a point a concept: its drop on the concept against that on the others, with 95 % crosses.

    Args:
        method: one that findings speak of, such as `tuned` or `gaussian-2/d_prime/0.3/zero/all`.
        site: the deepest unless told otherwise.

    Raises:
        UserError: no such method.
    """
    document = _at(audit, site)
    panels = {panel.method["method"]: panel for found in concept_panels(document).values() for panel in found}
    if method not in panels:
        raise UserError(f"findings speak of no method {method!r}", cure=did_you_mean(method, panels))
    panel = panels[method]
    numbered = [f"{number} {visible(name, 24)}" for name, number in concept_numbers(document).items()][:NUMBERED]
    title = f"{KIND_NAMES[panel.method['kind']].capitalize()} at {panel.method['site']}, a point a concept"
    return stand_alone(panel.figure, title, {}, _lines(numbered))


def frontier(audit: Audit, site: str | None = None, saliency: str | None = None) -> Chart:
    """What each kind of range takes from the concept and from the others as more neurons are masked.

    Args:
        site: the deepest unless told otherwise.
        saliency: ranking of the neurons; the first that findings speak of unless told otherwise.

    Raises:
        UserError: the sweep has one share of the neurons and one width, or no such ranking.
    """
    panel, legends = _frontier(audit, site, saliency)
    return stand_alone(panel.figure, f"Frontier over % of the neurons by {panel.saliency}, {panel.site}", legends)


def cost(audit: Audit, site: str | None = None, saliency: str | None = None) -> Chart:
    """What the settings of `frontier` cost ordinary text, as perplexity.

    Raises:
        UserError: as `frontier`; or perplexity was not measured.
    """
    panel, legends = _frontier(audit, site, saliency)
    if panel.perplexity is None:
        raise UserError(
            "perplexity was not measured", cure="Name ordinary text in evaluate.auxiliary, and audit again."
        )
    return stand_alone(panel.perplexity, f"Cost over % of the neurons by {panel.saliency}, {panel.site}", legends)


def heatmap(audit: Audit, measure: str = "selectivity") -> Chart:
    """A number at every site for every concept, in percent: of the tuned method, or of the first setting where nothing was tuned.

    Args:
        measure: `selectivity`, `overlap`, `target_gate` or `complement_gate`.

    Raises:
        UserError: no such measure, or it was not measured.
    """
    found = {drawn.name: drawn for drawn in heatmaps(audit_of(audit))}
    if measure not in found:
        raise UserError(f"no heatmap of {measure!r}", cure=did_you_mean(measure, found))
    drawn = found[measure]
    values = [[None if cell.value is None else 100 * cell.value for cell in row] for row in drawn.rows.values()]
    names = {"row": dict(enumerate(drawn.rows, 1)), "column": dict(enumerate(drawn.sites, 1))}
    return stand_alone(draw_heatmap(values), HEATMAP_WORDS[measure][0], {}, axes=names)


def figures_of(audit: Audit) -> dict[str, Chart]:
    """Name -> every chart of an audit's results, for the sites that its page draws."""
    document = audit_of(audit)
    found: dict[str, Chart] = {f"heatmap-{drawn.name}": heatmap(document, drawn.name) for drawn in heatmaps(document)}
    for site in view.spread([entry["site"] for entry in document["sites"]], view.SITES_DRAWN):
        found[f"effects-{site}"] = effects(document, site)
        if any((row["site"], row["role"], row["method"]) == (site, "chosen", "tuned") for row in document["summary"]):
            found[f"concepts-{site}"] = concepts(document, site=site)
        drawn = frontiers(_at(document, site))
        for panel in drawn.panels if drawn else ():
            found[f"frontier-{site}-{slug(panel.saliency, 'neurons')}"] = frontier(document, site, panel.saliency)
            if panel.perplexity is not None:
                found[f"cost-{site}-{slug(panel.saliency, 'neurons')}"] = cost(document, site, panel.saliency)
    return found


def drawings(audit: Audit) -> dict[str, str]:
    """File name -> SVG of every chart of an audit's results: shapes and text, and nothing that acts. Equal audits give equal text."""
    return {f"{name}.svg": svg_file(chart) for name, chart in figures_of(audit).items()}


def _frontier(audit: Audit, site: str | None, saliency: str | None) -> tuple[FrontierPanel, dict[str, dict[Any, str]]]:
    found = frontiers(_at(audit, site))
    if found is None or not found.panels:
        raise UserError("the sweep is one point, and no frontier", cure="Sweep interventions.top, and audit again.")
    panels = {panel.saliency: panel for panel in found.panels}
    if saliency is not None and saliency not in panels:
        raise UserError(f"findings speak of no ranking {saliency!r}", cure=did_you_mean(saliency, panels))
    panel = found.panels[0] if saliency is None else panels[saliency]
    drawn = {row["kind"] for row in panel.rows}
    widths = {place: f"width {width:g}" for place, width in enumerate(found.widths)}
    kinds = {kind: name for kind, name in KIND_NAMES.items() if kind in drawn}
    return panel, {"kind": kinds, **({"width": widths} if len(widths) > 1 else {})}


def _lines(words: Iterable[str]) -> list[str]:
    """In as few lines as have room for them, in their order."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(", ") + len(word) <= TITLE_LENGTH:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _at(audit: Audit, site: str | None) -> Mapping[str, Any]:
    """audit.json with one site only.

    Raises:
        SiteError: no such site.
    """
    document = audit_of(audit)
    known = {entry["site"]: entry for entry in document["sites"]}
    if site is not None and site not in known:
        raise SiteError(f"site {site!r} was not audited", cure=did_you_mean(site, known))
    return {**document, "sites": [document["sites"][-1] if site is None else known[site]]}
