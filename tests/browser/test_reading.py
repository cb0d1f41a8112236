"""Anybody can read the page: with a screen reader, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import explorer
from tests.browser.conftest import Watched

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Callable[..., Watched], address: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(address + CARD, color_scheme=scheme).page
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
