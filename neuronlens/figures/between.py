"""Charts of what lies between checkpoints: judged gates, what changed, which ranges and neurons moved, trends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.artifact import read_versioned, slug
from neuronlens.comparison import COMPARISON, SCHEMA_VERSION
from neuronlens.comparison.gates import beside
from neuronlens.errors import UserError, did_you_mean
from neuronlens.figures.results import Audit
from neuronlens.pages.standalone import side_by_side, stand_alone, svg_file
from neuronlens.pages.text import points, significant, visible
from neuronlens.report.context import Numbers, main_numbers
from neuronlens.report.finished import audit_of
from neuronlens.report.sections import changes as changing
from neuronlens.report.sections.decision import gate_row, trend_panels
from neuronlens.report.sections.movement import movement, ranges_panel

if TYPE_CHECKING:
    import altair as alt

    from neuronlens.pages.drawing import Chart

Comparison = Mapping[str, Any] | Path | str
"""comparison.json, or the folder that `neuronlens compare` has written it into."""

_MOMENTS = {"before": "before", "after": "after"}
_GROUPS = {"complement": "before", "target": "after"}


def gates(judged: Sequence[Mapping[str, Any]]) -> alt.ConcatChart:
    """Gates one below the other, each number with its interval, the threshold as a line and the side that passes in the shade.

    Args:
        judged: what `neuronlens gate --json` prints, or `gates` of a line's record.jsonl.

    Raises:
        UserError: not one gate has a number.
    """
    known = [gate_row(gate) for gate in beside(judged, {})]
    charts = [
        stand_alone(
            row.figure,
            f"{row.mark} {visible(row.gate['gate'], 40)}: {row.verdict}",
            {},
            [f"{visible(row.gate['rule'], 50)}: {significant(row.gate['value'])} {row.interval}"],
        )
        for row in known
        if row.figure is not None
    ]
    if not charts:
        raise UserError("no gate was judged by a number", cure="Name gates of the audit's own numbers in params.yaml.")
    return side_by_side(charts, 1)


def changes(comparison: Comparison) -> Chart:
    """The largest effects before and after, in percentage points: better, worse, and dashed where it may be noise.

    Raises:
        UserError: the folder holds no comparison, or nothing was measured in both audits.
    """
    found = changing.changed(_read(comparison))
    if found.figure is None:
        raise UserError("nothing was measured in both audits", cure="Compare audits of the same concepts.")
    told = [
        f"{number} {effect.mark} {visible(effect.row['concept'] or 'all concepts', 24)}: {effect.words} "
        f"{points(effect.row['before'])} → {points(effect.row['after'])}"
        for number, effect in enumerate(found.drawn, 1)
    ]
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    return stand_alone(found.figure, f"What changed: {counts}", {}, told)


def moved_ranges(comparison: Comparison, concept: str | None = None, site: str | None = None) -> Chart:
    """Ranges of the neurons of a concept whose activations moved farthest, before and after.

    Args:
        concept: the first unless told otherwise.
        site: the deepest that has some unless told otherwise.

    Raises:
        UserError: no such concept or site, or neurons were not compared.
    """
    document = _read(comparison)
    sites = list(dict.fromkeys(row["site"] for row in document["movements"]))
    place = _known("site", site, sites, -1)
    own = list(dict.fromkeys(row["concept"] for row in document["movements"] if row["site"] == place))
    panel = ranges_panel(document, place, _known("concept", concept, own, 0))
    neurons = [f"{number} neuron {row['neuron']}: {row['state']}" for number, row in enumerate(panel.rows, 1)]
    notes = ["; ".join(neurons[at : at + 3]) for at in range(0, len(neurons), 3)]
    title = f"Ranges of {visible(panel.concept, 40)} at {panel.site}"
    return stand_alone(panel.figure, title, {"when": _MOMENTS}, notes)


def moved_neurons(comparison: Comparison, columns: int = 3) -> alt.ConcatChart:
    """The neurons whose activations moved farthest, before and after.

    Raises:
        UserError: neurons were not compared.
    """
    found = movement(_read(comparison)).neurons
    if not found:
        raise _not_compared()
    charts = [
        stand_alone(
            panel.figure,
            f"{panel.row['site']}:{panel.row['neuron']}",
            {"group": _GROUPS},
            [f"on {visible(panel.row['concept'], 24)}, distance {significant(panel.row['wasserstein'])}"],
        )
        for panel in found
    ]
    return side_by_side(charts, columns)


def trends(audits: Sequence[Audit]) -> alt.ConcatChart:
    """Main numbers of audits one after another: accuracy of the unedited model, selectivity, drop on the others; the last is marked.

    Args:
        audits: in order, such as those that `neuronlens trend` lists.

    Raises:
        UserError: there is none.
    """
    documents = [audit_of(audit) for audit in audits]
    if not documents:
        raise UserError("there is no audit to draw", cure="Name the folders of some, in order.")
    numbers = [
        Numbers(str(document["checkpoint"]["name"]), main_numbers(document), current=place == len(documents))
        for place, document in enumerate(documents, 1)
    ]
    ends = [f"{place} {visible(numbers[place - 1].name, 40)}" for place in sorted({1, len(numbers)})]
    return side_by_side(
        [stand_alone(panel.figure, panel.title, {}, [" … ".join(ends)]) for panel in trend_panels(numbers)], 1
    )


def drawings_between(comparison: Comparison) -> dict[str, str]:
    """File name -> SVG of every chart of a comparison, of the sites and concepts that its page draws."""
    document = _read(comparison)
    moved = movement(document)
    charts: dict[str, alt.TopLevelMixin] = {}
    if changing.changed(document).figure is not None:
        charts["changes"] = changes(document)
    if moved.neurons:
        charts["neurons"] = moved_neurons(document)
    for place, panel in enumerate(moved.ranges, 1):
        charts[f"ranges-{panel.site}-{place}-{slug(panel.concept, 'concept')}"] = moved_ranges(
            document, panel.concept, panel.site
        )
    return {f"{name}.svg": svg_file(chart) for name, chart in charts.items()}


def _known(what: str, name: str | None, known: Sequence[str], place: int) -> str:
    if not known:
        raise _not_compared()
    if name is not None and name not in known:
        raise UserError(f"no range of {what} {name!r} moved", cure=did_you_mean(name, known))
    return known[place] if name is None else name


def _not_compared() -> UserError:
    return UserError(
        "neurons were not compared", cure="Sites must have one width and concepts rows that both audits used."
    )


def _read(comparison: Comparison) -> Mapping[str, Any]:
    if isinstance(comparison, Mapping):
        return comparison
    file = Path(comparison) / COMPARISON
    if not file.is_file():
        raise UserError("holds no comparison", where=str(comparison), cure="neuronlens compare AUDIT OTHER makes one.")
    return read_versioned(file, SCHEMA_VERSION)
