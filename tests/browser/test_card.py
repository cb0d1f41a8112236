"""A neuron's card opens and closes without a mouse, and tells what the artifacts know of the neuron."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neuronlens.artifact import read_table
from tests.browser.conftest import Key, Row
from tests.browser.shown import digits, value

if TYPE_CHECKING:
    from playwright.sync_api import Page


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
