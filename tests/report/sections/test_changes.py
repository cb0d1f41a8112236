"""What changed: what is for the better, what for the worse, what within noise."""

from __future__ import annotations

from typing import Any

import pytest

from neuronlens.report.sections.changes import DRAWN, changed, tone, words
from tests.report.around import change


def comparison(changes: list[Any], sites: tuple[str, ...] = ("resid_post.1",)) -> dict[str, Any]:
    return {"changes": changes, "sites": [*sites], "identical": False}


@pytest.mark.parametrize(
    ("quantity", "better"),
    [
        ("base_accuracy", 1),
        ("base_confidence", 1),
        ("selectivity", 1),
        ("complement_accuracy_drop", -1),
        ("base_log_perplexity", -1),
        ("log_perplexity_ratio", -1),
    ],
)
def test_which_way_is_better_depends_on_the_quantity(quantity: str, better: int) -> None:
    assert tone(change(quantity, 0.1 * better)) == "improved"
    assert tone(change(quantity, -0.1 * better)) == "worsened"
    assert tone(change(quantity, 0.1 * better, decided=False)) == "noise"
    assert tone(change(quantity, 0.1 * better, adjusted=0.2)) == "noise"  # many tests, one of which was bound to


def test_an_end_without_a_number_decides_nothing() -> None:
    assert tone(change("selectivity", 0.1, low=None)) == "noise"


def test_effects_are_counted_concept_by_concept_once_each() -> None:
    rows = [
        change("base_accuracy", -0.1),
        change("base_accuracy", -0.1, concept=None),
        change("selectivity", 0.2),
        change("selectivity", 0.2, method="paper"),
        change("target_accuracy_drop", 0.3),
        change("log_perplexity_ratio", 0.1, decided=False),
        change("base_log_perplexity", 0.4, concept=None),
    ]
    found = changed(comparison(rows))
    assert found.counts == {"improved": 1, "worsened": 2, "noise": 1}
    assert found.total == 4
    assert found.text is not None
    assert found.text.tone == "worsened"


def test_the_largest_effects_are_drawn_those_beyond_noise_first() -> None:
    rows = [change("base_accuracy", 0.9, concept="loud", decided=False)]
    rows += [change("base_accuracy", 0.01 * i, concept=f"c{i}") for i in range(1, DRAWN + 2)]
    found = changed(comparison(rows))
    assert [effect.row["concept"] for effect in found.drawn] == [f"c{i}" for i in range(DRAWN + 1, 1, -1)]
    assert found.figure is not None
    assert changed(comparison([])).figure is None


def test_a_site_is_named_where_there_are_several() -> None:
    row = change("selectivity", 0.2)
    assert changed(comparison([row])).drawn[0].words == "tuned ranges: selectivity"
    several = changed(comparison([row], ("resid_post.0", "resid_post.1")))
    assert several.drawn[0].words == "tuned ranges: selectivity at resid_post.1"


def test_words_stand_in_one_place_for_pages_and_terminals() -> None:
    from flows import console

    assert console.words is words
    assert words(change("base_accuracy", 0.1)) == "accuracy, unedited"
    assert words(change("selectivity", 0.1, method="whole")) == "whole neurons: selectivity"
