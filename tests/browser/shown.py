"""What the explorer shows and saves, read off the page."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def cells(page: Page, column: str) -> list[str]:
    """What the table shows in a column."""
    place = page.locator("#explorer-app thead th[data-column]").evaluate_all(
        "(found, name) => found.findIndex((header) => header.dataset.column === name) + 1", column
    )
    found: list[str] = page.locator(f"#explorer-rows tr > :nth-child({place})").all_inner_texts()
    return found


def value(shown: str) -> float:
    """A number as the page writes it; NaN where it is not known."""
    plain = shown.replace("\N{MINUS SIGN}", "-").replace(",", "").replace("\N{INFINITY}", "inf")
    return math.nan if plain == "\N{EN DASH}" else float(plain)


def saved(page: Page, folder: Path) -> list[dict[str, str]]:
    """The rows that the button saves."""
    with page.expect_download() as waiting:
        page.click("#explorer-csv")
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def digits(number: float) -> str:
    return f"{number:.2e}"
