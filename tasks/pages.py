"""Pages of what stands around audits: index.html in an audit's folder and in that of a comparison, and audits/index.html over all of them.

They are made of what is stored and are no artifacts: they name days, runs and other audits. A page whose making has not changed is left as
it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuronlens import artifact
from neuronlens.comparison.page import html as comparison_html
from neuronlens.report.context import Context, Links
from neuronlens.report.page import html
from neuronlens.stages import Outcome
from tasks.around import Around
from tasks.audits import AUDITS, INDEX
from tasks.foreign import refuse_foreign_page
from tasks.ignored import keep_out_of_git
from tasks.index import put_in_index
from tasks.lineage import command, recorded
from tasks.surroundings import COMPARISONS, basis_of, link, with_basis

_IGNORED = "# Pages, which neuronlens report writes anew.\n"


@dataclass(frozen=True)
class Written:
    """A page that is there.

    Attributes:
        page: where.
        verdict: PASS, FAIL or NOT DECIDED.
        index_remade: whether the index over all audits was damaged, and has been made of the audits that are stored.
    """

    page: Path
    verdict: str
    index_remade: bool = False


def write_pages(
    found: Around, outcomes: Sequence[Outcome] = (), out: Path | None = None, *, anew: bool = False
) -> Written:
    """Write the page of an audit, that of its comparison, and its entry in the index over all audits.

    Args:
        outcomes: of its stages, in the run that has just ended.
        out: where the audit's page goes; index.html in the audit's folder unless told otherwise, and then nothing else is written.
        anew: also where nothing has changed.

    Raises:
        UserError: a page would take the place of a file that NeuronLens did not write.
    """
    place = found.place
    page = out or place.page
    if anew or out is not None or basis_of(page) != place.basis:
        steps, made = recorded(place.audit, outcomes)
        context = replace(_context(found, page.parent), lineage=steps, made=made, command=command(place.audit))
        _write(page, with_basis(html(found.document, _neurons(place.audit.folder), context=context), place.basis))
    if out is not None:
        return Written(page, found.ruling.word)
    if found.compared is not None and place.comparison is not None:
        write_comparison(found, place.comparison, found.compared, anew=anew)
    listed = place.is_listed and place.root is not None
    return Written(page, found.ruling.word, listed and put_in_index(found, place.root or Path(), anew=anew))


def write_comparison(found: Around, folder: Path, comparison: Mapping[str, Any], *, anew: bool = False) -> Path:
    """Write index.html of a comparison: its page with the gates of the second audit on it. comparison.html stays as it is.

    Args:
        found: around the second audit.
        folder: of the comparison.
        comparison: its comparison.json.
        anew: also where nothing has changed.
    """
    page = folder / INDEX
    if anew or basis_of(page) != found.place.basis:
        _write(page, with_basis(comparison_html(comparison, _context(found, folder)), found.place.basis))
        root = found.place.root
        if root is not None and folder.resolve().parent == (root / COMPARISONS).resolve():
            keep_out_of_git(folder.parent, [f"/*/{INDEX}"], _IGNORED)
    return page


def _neurons(folder: Path) -> dict[str, Any] | None:
    """What the explorer shows; None of an audit that an earlier version has reported on."""
    file = folder / "report" / "explorer.json"
    found: dict[str, Any] | None = artifact.read_json(file) if file.exists() else None
    return found


def _context(found: Around, base: Path) -> Context:
    """As a page in the folder `base` tells it; where the audit comes from is told by its own page alone."""
    place = found.place
    trend = [
        replace(own, link=link(folder / INDEX, base) if (folder / INDEX).is_file() else None)
        for folder, own in found.trend
    ]
    links = Links(
        index=link(place.root / AUDITS / INDEX, base) if place.root is not None and place.is_listed else None,
        audit=link(place.page, base),
        before=link(place.before / INDEX, base) if place.before and (place.before / INDEX).is_file() else None,
        comparison=link(place.comparison / INDEX, base)
        if found.compared and place.comparison not in (None, base)
        else None,
    )
    return Context(
        gates=found.gates,
        judged=found.day if found.gates else None,
        line=None if place.line is None else place.line.name,
        before=found.last,
        comparison=found.compared,
        trend=trend,
        links=links,
    )


def _write(page: Path, text: str) -> None:
    """Whole or not at all, and never in the place of a file of somebody else's."""
    refuse_foreign_page(page)
    artifact.write_whole(page, text)
