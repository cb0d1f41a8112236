"""Wherever text that is not ours is put on a page, it is text: nothing runs, nothing is asked for, and no element is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuronlens import figures
from neuronlens.artifact import read_json
from neuronlens.pages.standalone import stand_alone, svg_file
from neuronlens.pages.text import visible
from neuronlens.report import view
from neuronlens.report.page import report
from neuronlens.report.sections import changes, movement
from tests.browser import hostile, places
from tests.browser.test_hostile import assert_nothing_happened, one_line
from tests.report.around import comparison as plain_comparison
from tests.report.artifacts import config, fit_tables, make_audit, results_table

if TYPE_CHECKING:
    from tests.browser.conftest import Watched

Document = dict[str, Any]
Visit = Callable[..., "Watched"]
CONCEPTS = tuple(f"concept {letter}" for letter in "abcdefghijklmnopqrstuvwx")
SITES = ("resid_post.0", "resid_post.1")
PLAIN = [f"plain {letter}" for letter in "abcdefghijklmnopqrstuvwx"]
_TOLD = """() => {
    const copy = document.documentElement.cloneNode(true);
    for (const part of copy.querySelectorAll("script, style, #explorer-data")) part.remove();
    return { text: copy.textContent.split(/\\s+/).join(" "), elements: document.querySelectorAll("*").length,
        links: [...document.links].map((link) => link.protocol).filter((protocol) => protocol !== "file:") };
}"""

_IN_FILE = """() => {
    const { width, height } = document.documentElement.getBBox();
    return { text: document.documentElement.textContent.split(/\\s+/).join(" "), size: [width, height] };
}"""


@pytest.fixture(scope="module", autouse=True)
def everything_is_drawn() -> Iterator[None]:
    """Pages draw some of many concepts; here all, so that each name is everywhere."""
    with places.charts_drawn_once(), pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (view, "CONCEPTS_DRAWN"),
            (movement, "CONCEPTS_DRAWN"),
            (movement, "NEURONS_DRAWN"),
            (changes, "DRAWN"),
        ):
            patch.setattr(module, name, 100)
        yield


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, Document]:
    """audit.json and explorer.json of a small audit."""
    folder, settings = tmp_path_factory.mktemp("places"), config("checkpoint.revision=main")
    inputs = make_audit(
        folder,
        settings,
        results_table(CONCEPTS, SITES),
        gain=0.3,
        joint=0.2,
        fitted=fit_tables(CONCEPTS, SITES, settings, neurons=4),
        warnings=["a warning"],
    )
    report(settings, inputs, folder)
    audit = read_json(folder / "audit.json")
    # each name in each table and chart, once: many pages are made of this
    audit["neurons"] = [*{card["concept"]: card for card in reversed(audit["neurons"])}.values()]
    audit["results"] = [row for row in audit["results"] if row["site"] == SITES[-1]]
    return audit, read_json(folder / "explorer.json")


@pytest.fixture(scope="module")
def pages(documents: tuple[Document, Document]) -> Mapping[str, Callable[[Sequence[str]], str]]:
    """Page -> what makes it of texts."""
    return {"audit": lambda texts: places.audit_page(*documents, texts), "comparison": places.comparison_page}


def test_every_text_of_a_document_is_ours_or_stands_in_a_place(documents: tuple[Document, Document]) -> None:
    """A text that is added to what pages are made of is added to one of the lists, or this fails."""
    named = {*CONCEPTS, *SITES, "sports"}
    for document, known in zip((*documents, plain_comparison()), (places.AUDIT, (), places.COMPARISON), strict=True):
        unknown = {
            ".".join(path)
            for path, text in places.texts_of(document)
            if text not in named and not places.stands_in(path, (*known, *places.OURS))
        }
        assert unknown == set()


@pytest.mark.parametrize("name", ["audit", "comparison"])
def test_text_is_text_in_every_place(
    visit: Visit, pages: Mapping[str, Callable[[Sequence[str]], str]], tmp_path: Path, name: str
) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages[name](PLAIN), encoding="utf-8")
    watched = visit(file.as_uri())
    elements = watched.page.evaluate(_TOLD)["elements"]
    for texts in hostile.groups(len(PLAIN)):
        file.write_text(pages[name](texts), encoding="utf-8")
        watched.requests.clear()
        watched.page.goto(file.as_uri())
        told = watched.page.evaluate(_TOLD)
        assert [text for text in shown(texts) if text not in told["text"]] == []
        assert told["links"] == []
        assert told["elements"] == elements
        assert_nothing_happened(watched)


def test_text_is_text_in_the_index(visit: Visit, tmp_path: Path) -> None:
    file, texts = tmp_path / "index.html", hostile.strings()
    file.write_text(places.index_page(texts), encoding="utf-8")
    watched = visit(file.as_uri())
    told = watched.page.evaluate(_TOLD)
    assert watched.page.locator("article.audit").count() == len(texts)
    assert one_line(watched.page.locator("article.audit h3").all_text_contents()) == shown(texts)
    assert told["links"] == []
    assert_nothing_happened(watched)


def test_text_is_text_in_a_figure_that_is_a_file(
    visit: Visit, documents: tuple[Document, Document], tmp_path: Path
) -> None:
    """One has all of them as notes and in its legend; in charts of concepts stands the start of each name."""
    audit, texts = documents[0], hostile.strings()
    legend = {"kind": dict(zip(texts, texts, strict=True))}
    charts = [(stand_alone(view.effects_panels(audit)[0].figure, texts[0], legend, texts), shown(texts, 80))]
    for group in hostile.groups(len(CONCEPTS))[::5]:
        named = places.filled(audit, places.AUDIT, dict(zip(CONCEPTS, group, strict=True)), group)
        charts.append((figures.concepts(named), shown(group, 24)))
    for place, (chart, told) in enumerate(charts):
        file = tmp_path / f"{place}.svg"
        file.write_text(svg_file(chart), encoding="utf-8")
        watched = visit(file.as_uri())
        found = watched.page.evaluate(_IN_FILE)
        assert [text for text in told if text not in found["text"]] == []
        assert min(found["size"]) > 200
        assert watched.canary == watched.dialogs == watched.errors == []
        assert watched.requests == [file.as_uri()]


def shown(texts: Sequence[str], limit: int = 2000) -> set[str]:
    return one_line(visible(text, limit) for text in texts)
