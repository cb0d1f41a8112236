"""A chart that has been shortened looks as the renderer drew it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from neuronlens.artifact import read_json
from neuronlens.pages import drawing
from neuronlens.report.page import html
from tests.browser.conftest import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def pages(reported: dict[str, Path]) -> dict[str, str]:
    """The report with its charts as they are, and as the renderer draws them."""
    audit = read_json(reported["report"] / "audit.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "terse", id)  # which changes nothing
        patch.setattr(
            drawing, "_drawn", drawing._drawn.__wrapped__
        )  # what is drawn now is not what others are to be given
        long = html(audit)
    return {"short": html(audit), "long": long}


def charts(page: str) -> list[str]:
    return re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)


def settled(page: Page) -> bytes:
    """A picture of the whole page that the next one is equal to: a browser that is short of time may not have drawn all of it."""
    before = page.screenshot(full_page=True)
    for _ in range(20):
        now = page.screenshot(full_page=True)
        if now == before:
            return now
        before = now
    raise AssertionError("the page never comes to rest")


def test_a_shortened_chart_takes_half_the_room(pages: dict[str, str]) -> None:
    short, long = (charts(pages[name]) for name in ("short", "long"))
    assert len(short) == len(long) > 20
    assert sum(map(len, short)) < 0.55 * sum(map(len, long))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shortened_chart_looks_the_same(
    visit: Callable[..., Watched], pages: dict[str, str], tmp_path: Path, scheme: str
) -> None:
    drawn = []
    for name, page in pages.items():
        (style,) = re.findall(r"<style>.*?</style>", page, re.DOTALL)
        file = tmp_path / f"{name}.html"
        file.write_text(f"<!doctype html>{style}<body>{''.join(charts(page))}", encoding="utf-8")
        picture = settled(visit(file.as_uri(), color_scheme=scheme).page)
        drawn.append(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float))
    assert drawn[0].shape == drawn[1].shape
    assert drawn[0].std() > 10, "something is drawn"
    difference = np.abs(drawn[0] - drawn[1]).max(axis=2)
    # an edge may move by a hundredth of a pixel
    assert difference.mean() < 0.05
    assert (difference > 60).mean() < 1e-4
