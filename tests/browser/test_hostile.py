"""Whatever text the data hold, a page shows it and does nothing else: nothing runs, nothing is asked for, nothing is complained of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuronlens.artifact import read_json
from neuronlens.pages.text import visible
from neuronlens.report.explorer.details import excerpt
from neuronlens.report.page import html, report
from tests.browser import hostile, places

if TYPE_CHECKING:
    from tests.browser.conftest import Watched

Visit = Callable[..., "Watched"]
_SIZES = """(selector) => [...document.querySelectorAll(selector)].filter((part) => !part.closest("details:not([open])"))
    .map((part) => part.getBoundingClientRect()).map(({ width, height }) => [width, height])"""
_Parts = dict[str, tuple[int, int]]
_AROUND: _Parts = {
    "h1": (1, 10),
    "#ruling": (1, 10),
    ".gates th[scope=row]": (7, 10),
    ".changed .counts": (1, 10),
    ".trend h3": (3, 10),
    ".trustbox dt": (5, 10),
    "td.strip svg": (4, 20),
    ".slopes svg": (1, 50),
    ".trends svg": (3, 50),
    "#movement figure svg": (10, 50),
}
_AUDIT: _Parts = {"h1": (1, 10), "#findings-title": (1, 10), "#findings .verdict": (5, 10), "figure svg": (10, 50)}
THERE: dict[str, _Parts] = {
    "names": _AROUND | _AUDIT,
    "texts": _AUDIT,
    "comparison": _AROUND,
    "index": {"h1": (1, 10), ".audit h3": (50, 10), ".audit .word": (50, 10), ".audit svg": (100, 20)},
}
"""Page -> what its first screen has, and its charts: how many at least, and of how many pixels."""
POLICIES = {"sandbox": "sandbox", "no scripts": "default-src 'none'; style-src 'unsafe-inline'"}


@pytest.fixture(scope="module")
def strings() -> list[str]:
    found = hostile.strings()
    assert len(found) >= 500
    return found


@pytest.fixture(scope="module")
def names(strings: list[str]) -> list[str]:
    """Some of them, among which each kind is: a page of 500 concepts takes long to make and to lay out, and test_places.py has them all."""
    return strings[::10]


@pytest.fixture(scope="module")
def folder(strings: list[str], names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each kind; what stands around an audit stands on names.html."""
    root = tmp_path_factory.mktemp("hostile")
    with places.charts_drawn_once():
        for name, settings, inputs in (
            ("names", *hostile.names_audit(root / "names", names, warnings=strings)),
            ("texts", *hostile.texts_audit(root / "texts", strings)),
        ):
            out = root / name / "report"
            out.mkdir()
            report(settings, inputs, out)
            (out / "report.html").rename(root / f"{name}.html")
        told = (read_json(root / "names" / "report" / f"{name}.json") for name in ("audit", "explorer"))
        (root / "names.html").write_text(html(*told, context=places.context(names)), encoding="utf-8")
        (root / "comparison.html").write_text(places.comparison_page(names), encoding="utf-8")
        (root / "index.html").write_text(places.index_page(names), encoding="utf-8")
    return root


@pytest.fixture(scope="module", params=POLICIES)
def served(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Where a server hands the pages out under a policy of its own."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Content-Security-Policy", POLICIES[request.param])
            super().end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def assert_nothing_happened(watched: Watched) -> None:
    assert watched.canary == []
    assert watched.dialogs == []
    assert len(watched.requests) == 1, "the document itself"
    assert watched.errors == []
    assert str(hostile.PRODUCT) not in watched.page.locator("body").inner_text()


def assert_all_but_the_explorer_is_there(watched: Watched, name: str) -> None:
    """The first screen, all charts, and a table in place of the explorer."""
    page = watched.page
    for selector, (count, least) in THERE[name].items():
        found = page.evaluate(_SIZES, selector)
        assert len(found) >= count, selector
        assert min(min(size) for size in found) > least, selector
    static = page.locator("#explorer-static")
    assert static.count() == (name in ("names", "texts"))
    if static.count():
        assert page.locator("#explorer-static tbody tr").count() > 5
        assert static.is_visible()
        assert "needs scripts" in static.inner_text()
        assert not page.locator("#explorer-app").is_visible()
    assert watched.dialogs == []
    assert len(watched.requests) == 1, "the document itself"


def one_line(texts: Iterable[str]) -> set[str]:
    """As a browser lays texts out."""
    return {" ".join(text.split()) for text in texts}


def test_names_are_text(visit: Visit, folder: Path, names: list[str], strings: list[str]) -> None:
    watched = visit((folder / "names.html").as_uri())
    page = watched.page
    warnings = page.locator("#trust li.warning").all_inner_texts()
    assert one_line(warnings) == one_line(visible(text, 2000) for text in strings)
    page.wait_for_selector("#explorer-app")
    page.fill("#explorer-q", f"{hostile.SITE}:0")
    found: list[str] = []
    while True:
        found += page.locator("#explorer-rows td:nth-child(2)").all_inner_texts()
        if page.locator("#explorer-on").is_disabled():
            break
        page.locator("#explorer-on").click()
    assert len(found) == len(names)
    assert one_line(found) == one_line(map(visible, names))
    page.locator("#explorer-rows a").first.click()
    page.wait_for_selector("#explorer-card")
    assert page.locator("#explorer-own tr").count() == len(names)
    assert_nothing_happened(watched)


def test_texts_of_rows_are_text(visit: Visit, folder: Path, strings: list[str]) -> None:
    watched = visit((folder / "texts.html").as_uri())
    page = watched.page
    page.wait_for_selector("#explorer-app")
    found: list[str] = []
    for neuron in range(-(-len(strings) // 10)):
        name = f"{hostile.SITE}:{neuron}"
        page.evaluate("(name) => { location.hash = `#explorer?open=${name}&of=law`; }", name)
        page.locator("#explorer-name", has_text=f"{name}, law").wait_for()
        found += page.locator("#explorer-told td:last-child").all_inner_texts()
    assert one_line(found) == one_line(map(excerpt, strings))
    assert_nothing_happened(watched)


@pytest.mark.parametrize("name", THERE)
def test_a_policy_that_forbids_scripts_takes_the_explorer_alone(visit: Visit, served: str, name: str) -> None:
    assert_all_but_the_explorer_is_there(visit(f"{served}/{name}.html"), name)


@pytest.mark.parametrize("name", THERE)
def test_so_does_a_browser_that_runs_none(visit: Visit, folder: Path, name: str) -> None:
    watched = visit((folder / f"{name}.html").as_uri(), java_script_enabled=False)
    assert_all_but_the_explorer_is_there(watched, name)
    assert watched.errors == []


def test_a_lone_surrogate_is_spelt_out(visit: Visit, folder: Path, tmp_path: Path) -> None:
    """JSON may hold half a character, which no file in UTF-8 can."""
    report = folder / "texts" / "report"
    audit, explorer = read_json(report / "audit.json"), read_json(report / "explorer.json")
    audit["checkpoint"]["name"] = "\ud800<script>canary.push(1)</script>\udfff"
    explorer["concepts"][0] = "\udead<b>"
    (tmp_path / "page.html").write_text(html(audit, explorer), encoding="utf-8")
    watched = visit((tmp_path / "page.html").as_uri())
    watched.page.wait_for_selector("#explorer-app")
    assert r"\ud800<script>" in watched.page.locator("h1").inner_text()
    assert r"\udead<b>" in watched.page.locator("#explorer-concept").inner_text()
    assert_nothing_happened(watched)
