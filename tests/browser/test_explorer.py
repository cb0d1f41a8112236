"""The explorer finds what is asked for, says the artifacts' numbers, and keeps its state in the address."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from tests.browser.conftest import CONCEPTS, SITES, Key, Row, Watched
from tests.browser.shown import cells, digits, saved, value

if TYPE_CHECKING:
    from playwright.sync_api import Page

NUMBERS = ("mean", "std", "d_prime", "auroc", "mean_abs")
TOTAL = len(SITES) * 16 * len(CONCEPTS)


def test_numbers_are_those_of_the_statistics(
    page: Page, rows: dict[Key, Row], selected: dict[Key, Row], tmp_path: Path
) -> None:
    table = saved(page, tmp_path)
    assert len(table) == len(rows) == TOTAL
    for row in table:
        key = row["site"], int(row["neuron"]), row["concept"].removeprefix("'")
        for name in NUMBERS:
            assert digits(float(row[name])) == digits(rows[key][name])
        for name in ("dose_target", "dose_complement"):
            assert digits(float(row[name])) == digits(selected[key][name]) if key in selected else row[name] == ""
        for name, sign in (("lower", -1), ("upper", 1)):
            exact = rows[key]["mean"] + sign * 2 * rows[key]["std"]
            assert abs(float(row[name]) - exact) <= 0.01 * (abs(rows[key]["mean"]) + 2 * rows[key]["std"])
        assert bool(row["selected"]) == (key in selected)


def test_the_table_shows_what_is_saved(page: Page, tmp_path: Path) -> None:
    table = saved(page, tmp_path)
    for name in NUMBERS:
        for shown, row in zip(cells(page, name), table, strict=False):
            assert digits(value(shown)) == digits(float(row[name]))
    for name in ("dose_target", "dose_complement"):
        for shown, row in zip(cells(page, name), table, strict=False):
            assert value(shown) == pytest.approx(100 * float(row[name] or "nan"), nan_ok=True)
    assert cells(page, "neuron") == [f"{row['site']}:{row['neuron']}" for row in table[:25]]


def test_no_cell_of_a_saved_table_is_a_formula(page: Page, tmp_path: Path) -> None:
    page.select_option("#explorer-concept", "=finance")
    table = saved(page, tmp_path)
    assert {row["concept"] for row in table} == {"'=finance"}
    page.click("#explorer-reset")
    assert any(row["alike"] == "'=finance" for row in saved(page, tmp_path))


def expected(rows: dict[Key, Row], keep: Callable[[Key], bool]) -> int:
    return sum(keep(key) for key in rows)


def test_a_search_finds_concepts_sites_and_neurons(page: Page, rows: dict[Key, Row]) -> None:
    searches: dict[str, Callable[[Key], bool]] = {
        "ALTH": lambda key: key[2] == "health",
        "mlp": lambda key: key[0] == "mlp_post.1",
        "12": lambda key: key[1] == 12,
        "post.1:12": lambda key: key[:2] == ("mlp_post.1", 12),
        ":3": lambda key: key[1] == 3,
        "nothing:3": lambda key: not key,
        "1e1": lambda key: not key,
    }
    for query, keep in searches.items():
        page.fill("#explorer-q", query)
        count = expected(rows, keep)
        assert page.inner_text("#explorer-count") == f"{count} of {TOTAL} rows", query
        assert len(cells(page, "neuron")) == min(25, count)


def test_filters_add_up(page: Page, rows: dict[Key, Row], selected: dict[Key, Row]) -> None:
    page.select_option("#explorer-site", "resid_post.0")
    page.select_option("#explorer-concept", "law")
    page.fill("#explorer-min", "0.5")
    page.select_option("#explorer-by", label="anyone")
    count = expected(
        rows,
        lambda key: key[0] == "resid_post.0" and key[2] == "law" and rows[key]["d_prime"] >= 0.5 and key in selected,
    )
    assert 0 < count < 16
    assert page.inner_text("#explorer-count") == f"{count} of {TOTAL} rows"
    assert set(cells(page, "concept")) == {"law"}
    assert min(map(value, cells(page, "d_prime"))) >= 0.5
    assert all(cells(page, "selected"))
    page.click("#explorer-reset")
    assert page.inner_text("#explorer-count") == f"{TOTAL} of {TOTAL} rows"


def test_any_number_sorts_both_ways(page: Page) -> None:
    for column in (*NUMBERS, "lower", "upper", "overlap", "dose_target", "dose_complement", "shared"):
        header = page.locator(f"#explorer-app th[aria-sort][data-column={column}]")
        if header.get_attribute("aria-sort") == "none":
            header.locator("button").click()
        for order, sign in (("descending", -1), ("ascending", 1)):
            assert header.get_attribute("aria-sort") == order, column
            shown = [sign * value(text) for text in cells(page, column)]
            assert shown == sorted(shown), column
            header.locator("button").click()
        assert page.locator("#explorer-app th[aria-sort$=ending]").count() == 1


def test_names_sort_as_they_are_listed(page: Page) -> None:
    page.click("#explorer-app th[data-column=concept] button")
    assert set(cells(page, "concept")) == {"=finance"}
    page.click("#explorer-app th[data-column=neuron] button")
    assert cells(page, "neuron")[:5] == ["resid_post.0:0"] * 4 + ["resid_post.0:1"]


def test_what_is_missing_comes_last(page: Page, selected: dict[Key, Row]) -> None:
    header = page.locator("#explorer-app th[data-column=dose_target] button")
    for _ in range(2):
        header.click()
        assert not any(math.isnan(value(text)) for text in cells(page, "dose_target"))
        for _ in range(len(selected) // 25):
            page.click("#explorer-on")
        found = [math.isnan(value(text)) for text in cells(page, "dose_target")]
        assert found == sorted(found)
        assert any(found)


def test_pages_of_the_table_hold_every_row_once(page: Page) -> None:
    found = []
    while True:
        found += list(zip(cells(page, "neuron"), cells(page, "concept"), strict=True))
        if page.locator("#explorer-on").is_disabled():
            break
        page.click("#explorer-on")
    assert len(found) == len(set(found)) == TOTAL
    assert page.locator("#explorer-rows tr").count() <= 25


def test_the_address_brings_everything_back(page: Page) -> None:
    page.fill("#explorer-q", "post")
    page.select_option("#explorer-site", "mlp_post.1")
    page.select_option("#explorer-concept", "=finance")
    page.select_option("#explorer-by", label="C contrastive")
    page.fill("#explorer-min", "0.1")
    page.click("#explorer-app th[data-column=std] button")
    page.locator("#explorer-rows a").first.click()
    page.wait_for_selector("#explorer-card")
    before = {part: page.inner_text(part) for part in ("#explorer-rows", "#explorer-count", "#explorer-card")}
    kept = parse_qs(page.url.partition("?")[2])
    assert kept["concept"] == ["=finance"]
    assert kept["sort"] == ["-std"]
    page.reload()
    page.wait_for_selector("#explorer-card")
    assert {part: page.inner_text(part) for part in before} == before
    assert page.input_value("#explorer-q") == "post"
    assert page.input_value("#explorer-site") == "mlp_post.1"
    page.go_back()
    page.wait_for_selector("#explorer-card", state="hidden")
    assert page.inner_text("#explorer-rows") == before["#explorer-rows"]


def test_the_page_of_the_table_is_kept_too(page: Page) -> None:
    page.click("#explorer-on")
    before = page.inner_text("#explorer-rows")
    page.reload()
    page.wait_for_selector("#explorer-app")
    assert page.inner_text("#explorer-rows") == before
    assert page.inner_text("#explorer-place") == "26 to 50"


@pytest.mark.parametrize(
    "fragment",
    [
        "site=nowhere&concept=<b>",
        "sort=toString&page=-7",
        "sort=__proto__&by=99999",
        "page=1e9",
        "open=resid_post.0:99&of=law",
        "min=x&q=",
        "%",
    ],
)
def test_an_address_of_another_page_does_no_harm(visit: Callable[..., Watched], address: str, fragment: str) -> None:
    watched = visit(f"{address}#explorer?{fragment}")
    watched.page.wait_for_selector("#explorer-app")
    assert watched.page.locator("#explorer-rows tr").count() > 0 or "by=99999" in fragment
    assert not watched.page.locator("#explorer-card").is_visible()
    assert watched.errors == []
    assert watched.canary == []


def test_links_to_sections_work_as_ever(page: Page) -> None:
    page.fill("#explorer-q", "law")
    page.click("nav a[href='#trust']")
    assert page.url.endswith("#trust")
    assert page.locator("#trust").evaluate("(section) => Math.abs(section.getBoundingClientRect().top) < 200")
    assert page.input_value("#explorer-q") == "law"
    page.click("nav a[href='#explorer']")
    assert page.url.endswith("#explorer")
    assert page.locator("#explorer-rows tr").count() > 0


def test_nothing_is_asked_for_or_complained_of(watched: Watched, tmp_path: Path) -> None:
    watched.page.locator("#explorer-rows a").first.click()
    watched.page.wait_for_selector("#explorer-card")
    saved(watched.page, tmp_path)
    assert watched.canary == []
    assert watched.errors == []
    others = [url for url in watched.requests if not url.startswith("blob:")]
    assert len(others) == 1
