"""A finding never says more than its interval shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from neuronlens.evaluation.summary import (
    choose_settings,
    compare_with_random_neurons,
    compare_with_unedited,
    compare_with_whole_neuron,
)
from neuronlens.report.findings import Finding, find
from tests.report.artifacts import Drops, contrasts_table, matched_table, results_table

BASE: dict[str, Any] = {"n": 120, "accuracy": 0.8, "low": 0.72, "high": 0.86, "majority": 0.2, "concepts": []}


def findings(drops: Drops, perplexity: Mapping[str, float] | None = None, **base: float) -> dict[str, Finding]:
    """Claim -> the reference setting's finding."""
    by_kind = perplexity or {}
    table = results_table(
        drops=drops, perplexity=lambda kind, place: by_kind.get(kind, 25.0 + (-1) ** (place + len(kind)))
    )
    comparisons = (
        compare(table, 0) for compare in (compare_with_unedited, compare_with_whole_neuron, compare_with_random_neurons)
    )
    found = find(choose_settings(table), BASE | base, *comparisons)
    return {finding.claim: finding for finding in found if finding.setting in (None, "reference")}


def tuned(mean: float = 0.3, gain: float = 0.3, **options: Any) -> dict[str, Finding]:
    """Claim -> finding, of an audit in which something was tuned at the site."""
    drops = planted(gaussian=(0.5, 0.05), full=(0.5, 0.3), random_neurons=(0.1, 0.1))
    table = results_table(drops=drops)
    site = table["site"][0].as_py()
    comparisons = (
        compare(table, 0) for compare in (compare_with_unedited, compare_with_whole_neuron, compare_with_random_neurons)
    )
    rows = {
        "contrasts": contrasts_table(site, mean).to_pylist(),
        "matched": matched_table(site, gain, **options).to_pylist(),
    }
    found = find(choose_settings(table), BASE, *comparisons, **rows)
    return {finding.claim: finding for finding in found if finding.setting in (None, "reference")}


def planted(**by_kind: tuple[float, float]) -> Drops:
    return lambda kind, _saliency, place: tuple(value + 0.001 * place for value in by_kind[kind])


def test_the_papers_claim_holds_where_it_was_planted() -> None:
    found = findings(
        planted(gaussian=(0.5, 0.05), full=(0.5, 0.3), random_neurons=(0.1, 0.1)),
        perplexity={"gaussian": 22.0, "full": 44.0},
    )
    assert len(found) == 7
    assert "is lower than under masking the same neurons whole: 0.500 times" in found["text"].sentence
    assert {claim: finding.verdict for claim, finding in found.items()} == dict.fromkeys(found, "holds")
    assert "costs the other concepts 25.0 points [25.0, 25.0] less" in found["spares"].sentence
    assert "lowers target accuracy by 50.2 points" in found["effect"].sentence


def test_a_contradiction_is_said_plainly() -> None:
    found = findings(planted(gaussian=(0.4, 0.35), full=(0.5, 0.1), random_neurons=(0.4, 0.1)))
    assert found["spares"].verdict == found["selective"].verdict == found["control"].verdict == "contradicted"
    assert found["spares"].sentence.startswith(
        "Against the paper's claim, range masking costs the other concepts 25.0 points"
    )


def test_doing_less_is_named_where_it_explains_less_damage() -> None:
    found = findings(planted(gaussian=(0.1, 0.05), full=(0.5, 0.3), random_neurons=(0.1, 0.1)))
    assert found["spares"].verdict == "holds"
    assert "takes 40.0 points [40.0, 40.0] less from the target" in found["spares"].sentence
    assert found["selective"].verdict == "contradicted"


def test_noise_decides_nothing() -> None:
    found = findings(
        lambda kind, _saliency, place: (0.1 * (-1) ** place * len(kind), 0.05 * (-1) ** (place + len(kind)))
    )
    decided = [finding for claim, finding in found.items() if claim != "known" and finding.verdict != "not decided"]
    assert decided == []
    for claim, finding in found.items():
        if claim != "known":
            assert not any(
                word in finding.sentence for word in ("lowers", "raises", "Against", "is more ", "is less ", "is lower")
            )


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.3, 0.5, "holds"), (0.1, 0.3, "not decided"), (0.0, 0.1, "contradicted")]
)
def test_a_model_that_guesses_is_called_so(low: float, high: float, verdict: str) -> None:
    known = findings(planted(gaussian=(0, 0), full=(0, 0), random_neurons=(0, 0)), low=low, high=high)["known"]
    assert known.verdict == verdict
    assert ("better" in known.sentence) == (verdict == "holds")


def test_numbers_stand_behind_every_sentence() -> None:
    for finding in findings(planted(gaussian=(0.5, 0.05), full=(0.5, 0.3), random_neurons=(0.1, 0.1))).values():
        assert asdict(finding)["numbers"]


def test_the_tuned_method_is_better_where_it_is_at_every_drop_that_both_reach() -> None:
    found = tuned()
    assert {found[claim].verdict for claim in ("site", "tuned_control", "tuned", "tuned_confidence", "tuned_text")} == {
        "holds"
    }
    assert found["tuned"].sentence.startswith("Better at 3 and worse at 0 of the 3 target drops that both reach")
    assert "90.0 by tuned ranges and 50.0 by the paper's" in found["tuned"].sentence
    assert "0.741 times the perplexity [0.705, 0.779]" in found["tuned_text"].sentence


@pytest.mark.parametrize(("gain", "verdict"), [(-0.3, "contradicted"), (0.0, "not decided"), (0.04, "not decided")])
def test_the_tuned_method_is_not_praised_for_what_it_does_not_show(gain: float, verdict: str) -> None:
    found = tuned(gain=gain)
    assert {found[claim].verdict for claim in ("tuned", "tuned_confidence", "tuned_text")} == {verdict}


def test_drops_that_only_one_method_reaches_decide_nothing() -> None:
    assert {"tuned", "tuned_confidence", "tuned_text"}.isdisjoint(tuned(reached=0))


@pytest.mark.parametrize(("mean", "verdict"), [(0.0, "not decided"), (-0.3, "contradicted")])
def test_no_winner_is_named_where_ranges_at_random_places_do_as_well(mean: float, verdict: str) -> None:
    found = tuned(mean=mean)
    assert found["site"].verdict == verdict
    contests = {"spares", "confidence", "text", "selective", "control"}
    contests |= {"tuned_control", "tuned", "tuned_confidence", "tuned_text"}
    assert contests <= set(found)
    for claim in contests:
        assert found[claim].verdict == "not decided"
        assert found[claim].sentence.startswith("No winner is named")
    assert found["effect"].verdict == "holds"  # that masking does something names no winner
