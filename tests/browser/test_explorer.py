"""The explorer finds what is asked for, says the artifacts' numbers, keeps its state in the address, and needs no mouse."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from neuronlens.artifact import read_table
from tests.browser.conftest import CONCEPTS, SITES, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Page

Row = Mapping[str, Any]
Key = tuple[str, int, str]
NUMBERS = ("mean", "std", "d_prime", "auroc", "mean_abs")
TOTAL = len(SITES) * 16 * len(CONCEPTS)


@pytest.fixture
def watched(visit: Callable[..., Watched], address: str) -> Watched:
    found = visit(address, accept_downloads=True)
    found.page.wait_for_selector("#explorer-app")
    return found


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


@pytest.fixture(scope="module")
def rows(reported: dict[str, Path]) -> dict[Key, Row]:
    """statistics.parquet by (site, neuron, concept)."""
    found = read_table(reported["fit"] / "statistics.parquet").to_pylist()
    return {(row["site"], row["neuron"], row["concept"]): row for row in found}


@pytest.fixture(scope="module")
def selected(reported: dict[str, Path]) -> dict[Key, Row]:
    """Ranges of the findings' settings by (site, neuron, concept)."""
    found = read_table(reported["fit"] / "ranges.parquet").to_pylist()
    return {
        (row["site"], row["neuron"], row["concept"]): row
        for row in found
        if (row["role"], row["range"], row["tau"], row["top"]) == ("sweep", "gaussian", 2.0, 0.3)
    }


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


def test_a_card_opens_and_closes_by_keyboard(page: Page) -> None:
    page.focus("#explorer-q")
    page.keyboard.type("post.1:3")
    reached = ""
    for _ in range(60):
        page.keyboard.press("Tab")
        reached = page.evaluate(
            "document.activeElement.closest('#explorer-rows') ? document.activeElement.textContent : ''"
        )
        if reached:
            break
    assert reached == "mlp_post.1:3"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector("#explorer-card")
    assert page.evaluate("document.activeElement.id") == "explorer-name"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "explorer-close"
    page.keyboard.press("Enter")
    page.wait_for_selector("#explorer-card", state="hidden")
    assert page.evaluate("document.activeElement.textContent") == "mlp_post.1:3"


def test_a_card_tells_what_the_artifacts_know(
    page: Page, reported: dict[str, Path], rows: dict[Key, Row], selected: dict[Key, Row]
) -> None:
    site, neuron, concept = next(key for key in selected if key[2] == "law")
    page.evaluate("(state) => { location.hash = state; }", f"#explorer?open={site}:{neuron}&of={concept}")
    page.locator("#explorer-name", has_text=f"{site}:{neuron}, law").wait_for()
    assert page.inner_text("#explorer-command") == f"neuronlens neuron AUDIT {site}:{neuron}"
    for line in page.locator("#explorer-own tr").all():
        name, _, *numbers = line.locator("th, td").all_inner_texts()
        own = rows[site, neuron, name]
        for column, shown in zip(("d_prime", "auroc", "mean_abs", "mean", "std"), numbers, strict=False):
            assert digits(value(shown)) == digits(own[column])
        assert line.locator("svg path.target").count() == 1
        assert line.locator("svg rect.band").count() == 1
    current = page.locator("#explorer-own [aria-current=true]")
    assert current.inner_text() == "law"
    box = page.locator("#explorer-figure").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 100
    examples = {
        (row["end"], row["place"]): row
        for row in read_table(reported["fit"] / "examples.parquet").to_pylist()
        if (row["site"], row["neuron"]) == (site, neuron)
    }
    dataset = {row["row"]: row for row in read_table(reported["prepare"] / "dataset.parquet").to_pylist()}
    for end in ("highest", "lowest"):
        for place, line in enumerate(page.locator(f"#explorer-{end} tr").all()):
            shown, of, text = line.locator("th, td").all_inner_texts()
            example = examples[end, place]
            assert digits(value(shown)) == digits(example["value"])
            assert (of, text) == (dataset[example["row"]]["concept"], dataset[example["row"]]["text"])
    edits = page.locator("#explorer-effects th").all_inner_texts()
    assert set(edits) <= {
        f"{kind}, {name}" for kind in ("range masking", "whole neurons") for name in ("reference", "contrastive")
    } | {"tuned ranges, tuned"}
    assert len(edits) >= 2


def test_a_card_leads_to_the_other_concepts(page: Page) -> None:
    page.locator("#explorer-rows a").first.click()
    page.locator("#explorer-own a", has_text="sports").click()
    page.locator("#explorer-name", has_text=", sports").wait_for()
    assert page.locator("#explorer-own [aria-current=true]").inner_text() == "sports"


def test_nothing_is_asked_for_or_complained_of(watched: Watched, tmp_path: Path) -> None:
    watched.page.locator("#explorer-rows a").first.click()
    watched.page.wait_for_selector("#explorer-card")
    saved(watched.page, tmp_path)
    assert watched.canary == []
    assert watched.errors == []
    others = [url for url in watched.requests if not url.startswith("blob:")]
    assert len(others) == 1
