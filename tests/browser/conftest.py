"""A real browser, and pages that are watched in it. Where there is none, these tests are skipped, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import browser as chromium
from neuronlens.artifact import read_table
from neuronlens.report.page import report
from tests.report.artifacts import config, fit_tables, make_audit, results_table

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

Row = Mapping[str, Any]
Key = tuple[str, int, str]
SITES = ("resid_post.0", "mlp_post.1")
CONCEPTS = ("=finance", "health", "law", "sports")
_CANARY = """
    window.canary = [];
    for (const name of ["alert", "confirm", "prompt", "open", "print"]) window[name] = () => { canary.push(name); };
    document.addEventListener("securitypolicyviolation", (event) => canary.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, for this folder alone: while Playwright runs, asyncio does not, which other tests need."""
    reason = chromium.why_not()
    if reason is not None:
        # pages need no browser to be made, so a machine without one can test all the rest; .ci/run installs one
        pytest.skip(reason)
    with chromium.started() as started:
        yield started


@dataclass
class Watched:
    """A tab and what happened in it.

    Attributes:
        page: the tab.
        requests: addresses that it asked for; the first is the document's own.
        dialogs: what it opened.
        errors: what it complained of, on the console or by failing.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def request(self, request: Request) -> None:
        self.requests.append(request.url)

    def dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    @property
    def canary(self) -> list[str]:
        """What ran that should not have, and what the page's own policy had to stop."""
        found: list[str] = self.page.evaluate("window.canary ?? []")
        return found


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens an address in a tab of its own; keywords are those of a Playwright context."""
    contexts = []

    def opened(address: str, **options: Any) -> Watched:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.add_init_script(_CANARY)
        own = address.partition("#")[0]
        context.route(
            lambda url: url.partition("#")[0] != own, lambda route: route.abort()
        )  # it is seen, and goes nowhere
        watched = Watched(context.new_page())
        for event in ("request", "dialog", "console"):
            watched.page.on(event, getattr(watched, event))
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.goto(address)
        return watched

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage -> folder of an audit with 16 neurons at each of two sites, among them `report`."""
    folder = tmp_path_factory.mktemp("audit")
    settings = config()
    texts = [f"row {place} of {name} says so" for name in CONCEPTS for place in range(12)]
    fitted = fit_tables(CONCEPTS, SITES, settings, neurons=16)
    results = results_table(CONCEPTS, SITES)
    inputs = make_audit(folder, settings, results, gain=0.3, joint=0.2, fitted=fitted, texts=texts)
    out = folder / "report"
    out.mkdir()
    report(settings, inputs, out)
    return inputs | {"report": out}


@pytest.fixture(scope="package")
def address(reported: dict[str, Path]) -> str:
    """Of the report's page, as a file."""
    return (reported["report"] / "report.html").as_uri()


@pytest.fixture
def watched(visit: Callable[..., Watched], address: str) -> Watched:
    """The report's page, with the explorer in it."""
    found = visit(address, accept_downloads=True)
    found.page.wait_for_selector("#explorer-app")
    return found


@pytest.fixture
def page(watched: Watched) -> Page:
    """Its tab."""
    return watched.page


@pytest.fixture(scope="package")
def rows(reported: dict[str, Path]) -> dict[Key, Row]:
    """statistics.parquet by (site, neuron, concept)."""
    found = read_table(reported["fit"] / "statistics.parquet").to_pylist()
    return {(row["site"], row["neuron"], row["concept"]): row for row in found}


@pytest.fixture(scope="package")
def selected(reported: dict[str, Path]) -> dict[Key, Row]:
    """Ranges of the findings' settings by (site, neuron, concept)."""
    found = read_table(reported["fit"] / "ranges.parquet").to_pylist()
    return {
        (row["site"], row["neuron"], row["concept"]): row
        for row in found
        if (row["role"], row["range"], row["tau"], row["top"]) == ("sweep", "gaussian", 2.0, 0.3)
    }
