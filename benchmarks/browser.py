"""The browser that pages are measured and tested in: Chromium as the system has it, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# a page asks for nothing, so whatever a browser asks for on its own would only be noise
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def why_not() -> str | None:
    """What is missing before a browser can be started; None where nothing is."""
    if find_spec("playwright") is None:
        return "Playwright is not installed: pip install 'neuronlens[dev]'"
    if _executable() is None:
        return f"no browser is installed: none of {', '.join(_NAMES)} is on the PATH"
    return None


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser.

    Raises:
        RuntimeError: something is missing.
    """
    reason = why_not()
    if reason is not None:
        raise RuntimeError(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_executable(), args=[*_QUIET])
        try:
            yield browser
        finally:
            browser.close()


def _executable() -> str | None:
    return next((path for path in map(shutil.which, _NAMES) if path), None)
