"""Anybody can read the page: with a screen reader, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import explorer
from neuronlens.artifact import read_json
from neuronlens.comparison.page import html as comparison_html
from neuronlens.report.page import html
from tests.browser import places
from tests.browser.conftest import Watched
from tests.report.around import comparison, context

A4 = 688
"""Pixels between the margins of a sheet, 182 mm."""
_TOO_WIDE = """(width) => [...document.querySelectorAll("svg, figure, table")]
    .filter((part) => part.checkVisibility())
    .map((part) => [part.tagName, part.closest("section")?.id, part.getBoundingClientRect()])
    .filter(([, , box]) => box.left < -0.5 || box.right > width + 0.5)
    .map(([name, section, box]) => `${name} in ${section}: ${box.left} to ${box.right}`)"""


_OPEN_ONE = """(sections) => sections.map((section) => section.querySelector("details")).filter(Boolean)
    .forEach((details) => { details.open = true; })"""
CARD = "#explorer?open=mlp_post.1:3&of=law"


@pytest.fixture(params=["", CARD], ids=["list", "card"])
def shown(request: pytest.FixtureRequest, address: str) -> str:
    return address + str(request.param)


@pytest.fixture(scope="module")
def read(address: str, reported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Page -> its address: of an audit with a card of its explorer, of one in its workspace, of a comparison, and over all audits."""
    folder = tmp_path_factory.mktemp("pages")
    audit = read_json(reported["report"] / "audit.json")
    made = {
        "workspace": html(audit, context=context()),
        "comparison": comparison_html(comparison(), context()),
        "index": places.index_page(["one checkpoint", "another"]),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {"report": address + CARD, **{name: (folder / f"{name}.html").as_uri() for name in made}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "workspace", "comparison", "index"])
def test_axe_finds_nothing_serious(visit: Callable[..., Watched], read: dict[str, str], name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(read[name], color_scheme=scheme).page
    if name == "report":
        page.wait_for_selector("#explorer-card")
    page.locator("section").evaluate_all(_OPEN_ONE)
    found: list[dict[str, Any]] = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    told = [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes'][:5]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert told == []


@pytest.mark.parametrize("scripts", [True, False])
def test_nothing_is_cut_on_paper(visit: Callable[..., Watched], shown: str, scripts: bool) -> None:
    watched = visit(shown, java_script_enabled=scripts, viewport={"width": A4, "height": 973})
    page = watched.page
    if scripts:
        page.wait_for_selector("#explorer-app")
    page.emulate_media(media="print")
    assert page.evaluate(_TOO_WIDE, A4) == []
    for control in ("#explorer-q", "#explorer-csv", "#explorer-on", "nav"):
        assert not page.locator(control).is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_nor_is_an_audit_of_many_sites(visit: Callable[..., Watched], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(explorer.page(tmp_path / "audit", explorer.Size(sites=12, neurons=4, concepts=8)), encoding="utf-8")
    page = visit(file.as_uri(), java_script_enabled=False, viewport={"width": A4, "height": 973}).page
    page.emulate_media(media="print")
    assert page.evaluate(_TOO_WIDE, A4) == []


def test_a_phone_scrolls_tables_and_not_the_page(visit: Callable[..., Watched], shown: str) -> None:
    page = visit(shown, viewport={"width": 390, "height": 800}).page
    page.wait_for_selector("#explorer-app")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
