"""The benchmark of the explorer at a tiny size: it makes a page, opens it and filters it. No time is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import explorer

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_explorer_is_measured_at_any_size(browser: Browser) -> None:
    ((title, ratios),) = explorer.run(explorer.Size(sites=1, neurons=5, concepts=3, rounds=1), browser)
    assert "15 rows" in title
    weight, ready, filters = ratios
    assert 0 < weight.median < 0.2, "a small audit has a small page"
    for ratio in (ready, filters):
        assert 0 < ratio.low <= ratio.median <= ratio.high
