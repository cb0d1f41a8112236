"""Means over concepts equal plain loops, and a comparison is decided only by what its numbers can carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.evaluation.summary import (
    MEANS,
    Effect,
    choose_settings,
    compare_with_random_neurons,
    compare_with_unedited,
    compare_with_whole_neuron,
    sign_flip_p,
    summarise,
)
from neuronlens.evaluation.uncertainty import mean
from tests.report.artifacts import CONCEPTS, results_table


def test_means_equal_plain_loops() -> None:
    table = results_table(sites=("resid_post.0", "resid_post.1"))
    rows = table.to_pylist()
    summary = summarise(table.to_pylist())
    assert len(summary) == 2 * len({row["method"] for row in rows})
    for found in summary:
        own = [row for row in rows if (row["site"], row["method"]) == (found["site"], found["method"])]
        assert found["concepts"] == len(own) == len(CONCEPTS)
        for name in MEANS:
            assert found[name] == pytest.approx(sum(row[name] for row in own) / len(own), abs=1e-12)
            assert found[f"{name}_low"] <= found[name] + 1e-12
            assert found[name] <= found[f"{name}_high"] + 1e-12
        product_of_ratios = math.prod(row["perplexity"] / row["base_perplexity"] for row in own)
        assert found["perplexity_ratio"] == pytest.approx(product_of_ratios ** (1 / len(own)))
        assert found["perplexity"] == pytest.approx(20 * found["perplexity_ratio"])


def test_the_order_of_rows_changes_nothing() -> None:
    table = results_table()
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    by_method = {row["method"]: row for row in summarise(shuffled.to_pylist())}
    assert all(by_method[row["method"]] == row for row in summarise(table.to_pylist()))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_perplexity_that_is_missing_or_not_finite_stays_unknown(value: float | None) -> None:
    table = results_table(perplexity=lambda _kind, place: value if place == 0 else 20.0)
    for row in summarise(table.to_pylist()):
        assert row["perplexity_ratio"] is row["perplexity_ratio_low"] is row["perplexity"] is None
    assert all("log_perplexity" not in part.effects for part in compare_with_whole_neuron(table, 0))


def test_a_single_concept_is_compared_as_well() -> None:
    table = results_table(CONCEPTS[:1])
    found = compare_with_whole_neuron(table, 0)
    assert {(part.saliency, part.other) for part in found} == {
        (name, f"full/{name}/0.3/zero/all") for name in ("mean_abs", "d_prime")
    }
    assert [part.concepts for part in (*found, *compare_with_unedited(table, 0))] == [1] * 8


def test_methods_measured_on_other_concepts_are_summarised_over_their_own() -> None:
    rows = results_table().to_pylist()
    first = rows[0]["method"]
    kept = [row for row in rows if row["method"] != first or row["concept"] in CONCEPTS[2:]]
    by_method = {row["method"]: row for row in summarise(kept)}
    whole = {row["method"]: row for row in summarise(rows)}
    assert by_method[first]["concepts"] == len(CONCEPTS) - 2
    own = [row["selectivity"] for row in kept if row["method"] == first]
    assert by_method[first]["selectivity"] == pytest.approx(np.mean(own))
    assert all(by_method[name] == whole[name] for name in whole if name != first)


def test_what_differs_between_concepts_is_left_empty_and_the_rest_is_told() -> None:
    rows = results_table().to_pylist()
    own = [
        row | {"tau": 2.0 + place}
        for place, row in enumerate(row for row in rows if row["method"] == rows[0]["method"])
    ]
    (found,) = summarise(own)
    assert found["tau"] is None
    assert (found["site"], found["operator"], found["top"]) == ("resid_post.1", "zero", 0.3)
    assert found["base_perplexity"] == 20.0


def test_no_interval_of_a_mean_reaches_beyond_what_a_mean_can_be() -> None:
    def opposite(_kind: str, _saliency: str, place: int) -> tuple[float, float]:
        return (1.0, -1.0) if place else (-1.0, 1.0)

    (found, *_) = summarise(results_table(CONCEPTS[:2], drops=opposite).to_pylist())
    ends = {name: (found[f"{name}_low"], found[f"{name}_high"]) for name in MEANS if found[name] is not None}
    assert ends["target_accuracy_drop"] == ends["complement_accuracy_drop"] == (-1, 1)
    assert ends["selectivity"] == (-2, 2)
    rows = [
        row | {"dose_target": float(place)} for place, row in enumerate(results_table(CONCEPTS[:2]).to_pylist()[:1] * 2)
    ]
    rows[1]["concept"] = "another"
    (found,) = summarise(rows)
    assert (found["dose_target_low"], found["dose_target_high"]) == (0, 1)


def test_one_concept_gives_no_interval() -> None:
    (row, *_) = summarise(results_table(CONCEPTS[:1]).to_pylist())
    assert row["selectivity_low"] is None
    assert row["selectivity_high"] is None
    assert Effect(0.5, None, None, 0.0).direction == 0


@pytest.mark.parametrize(
    ("concepts", "shift", "direction"),
    [
        (8, lambda place: -0.1 - 0.01 * place, -1),
        (8, lambda place: 0.1 + 0.01 * place, 1),
        (8, lambda place: 0.1 * (-1) ** place, 0),
        (8, lambda _place: 0.0, 0),
        (5, lambda _place: -0.5, 0),  # whatever they say, five concepts cannot decide at 95 %
        (6, lambda place: -0.5 - 0.01 * place, -1),
    ],
)
def test_a_planted_difference_is_found_with_its_sign(
    concepts: int, shift: Callable[[int], float], direction: int
) -> None:
    def drops(kind: str, _: str, place: int) -> tuple[float, float]:
        return 0.4, 0.2 + shift(place) * (kind == "gaussian")

    names = [f"concept {place}" for place in range(concepts)]
    found = compare_with_whole_neuron(results_table(names, drops=drops), 0)
    assert len(found) == 4  # two widths, two saliencies
    for part in found:
        assert part.effects["complement_accuracy_drop"].direction == direction
        assert part.effects["selectivity"].direction == -direction
        assert part.effects["target_accuracy_drop"].direction == 0
        assert part.effects["complement_accuracy_drop"].mean == pytest.approx(
            np.mean([shift(i) for i in range(concepts)])
        )


def test_methods_are_compared_at_equal_settings_only() -> None:
    table = results_table(tops=(0.1, 0.3))
    for part in compare_with_whole_neuron(table, 0):
        assert part.other == f"full/{part.saliency}/{part.top:g}/zero/all"
    random = compare_with_random_neurons(table, 0)
    assert {(part.tau, part.other) for part in random} == {
        (2.0, "random_neurons-2/random/0.1/zero/all"),
        (2.0, "random_neurons-2/random/0.3/zero/all"),
    }
    assert all(part.other is None for part in compare_with_unedited(table, 0))


def test_more_sites_make_chance_findings_no_more_likely() -> None:
    def p(sites: int, lucky: int) -> float:
        names = [f"resid_post.{i}" for i in range(sites)]
        tables = [results_table(drops=lambda _kind, _saliency, place: (0.3 + 0.01 * place, 0.0), sites=names[:lucky])]
        if sites > lucky:
            tables.append(
                results_table(drops=lambda _kind, _saliency, place: (0.1 * (-1) ** place, 0.0), sites=names[lucky:])
            )
        return compare_with_unedited(pa.concat_tables(tables), 0)[0].effects["target_accuracy_drop"].p

    assert p(1, 1) == pytest.approx(2 / 2**6)
    assert p(4, 1) == pytest.approx(4 * 2 / 2**6)
    assert p(4, 4) == pytest.approx(2 / 2**6)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flips_are_counted_exactly(values: list[float]) -> None:
    observed = abs(sum(values))
    slack = 1e-12 * sum(map(abs, values))
    flipped = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(total >= observed - slack for total in flipped) / len(flipped)
    assert sign_flip_p(np.array([values]), 0)[0] == pytest.approx(expected, abs=2 / len(flipped))


def test_many_concepts_are_tested_on_drawn_patterns() -> None:
    strong, null = np.full(40, 0.2), 0.2 * (-1.0) ** np.arange(40)
    low, high = sign_flip_p(np.array([strong, null]), 0)
    assert low == 1 / 4096, "of 4,096 patterns the observed one alone reaches it"
    assert high == 1
    some = np.random.default_rng(0).normal(0.3, 1, size=(3, 20))
    signs = np.random.default_rng([5, 20]).choice((1.0, -1.0), size=(4096, 20))
    signs[0] = 1
    expected = (np.abs(some @ signs.T) >= np.abs(some.sum(axis=1))[:, None] - 1e-9).mean(axis=1)
    assert sign_flip_p(some, 5).tolist() == expected.tolist()
    assert sign_flip_p(some, 6).tolist() != expected.tolist(), "the seed decides"


@pytest.mark.parametrize("concepts", [11, 12])
def test_up_to_twelve_concepts_every_pattern_counts(concepts: int) -> None:
    assert sign_flip_p(np.full((1, concepts), 0.2), 0)[0] == 2 / 2**concepts


def test_sums_that_rounding_tells_apart_count_as_equal_in_each_series_on_its_own() -> None:
    values = np.array([[0.1, 0.2, -0.3], [1e-9, 2e-9, 5e-9], [1e9, 2e9, 5e9]])
    assert sign_flip_p(values, 0).tolist() == [1.0, 0.25, 0.25]


def test_two_concepts_are_enough_for_an_interval() -> None:
    (row, *_) = summarise(results_table(CONCEPTS[:2]).to_pylist())
    assert row["selectivity_low"] < row["selectivity"] < row["selectivity_high"]


def test_a_ratio_of_perplexities_lies_within_its_interval_on_the_scale_of_ratios() -> None:
    rows = results_table().to_pylist()
    own = [row for row in rows if row["method"] == rows[0]["method"]]
    (found,) = summarise(own)
    logs = np.log([row["perplexity"] / row["base_perplexity"] for row in own])
    _, low, high = mean(logs[None])
    assert found["perplexity_ratio"] == pytest.approx(np.exp(logs.mean()))
    assert found["perplexity_ratio_low"] == pytest.approx(np.exp(low[0]))
    assert found["perplexity_ratio_high"] == pytest.approx(np.exp(high[0]))


@pytest.mark.parametrize("known", ["perplexity", "base_perplexity"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0])
def test_a_ratio_needs_both_perplexities(known: str, value: float | None) -> None:
    rows = [row | {known: value} for row in results_table(CONCEPTS[:3]).to_pylist()]
    assert {row["perplexity_ratio"] for row in summarise(rows)} == {None}


def test_settings_are_chosen_without_looking_at_a_result() -> None:
    reference, contrastive = choose_settings(results_table(tops=(0.1, 0.25, 0.35, 0.6)))
    assert (reference.name, reference.saliency, reference.top, reference.tau) == ("reference", "mean_abs", 0.25, 2.0)
    assert (contrastive.name, contrastive.saliency, contrastive.top, contrastive.tau) == (
        "contrastive",
        "d_prime",
        0.25,
        2.0,
    )
    better = results_table(tops=(0.1, 0.25, 0.35, 0.6), drops=lambda _kind, _saliency, _place: (0.9, 0.0))
    assert choose_settings(better) == (reference, contrastive)


def test_settings_fall_back_to_what_the_sweep_holds() -> None:
    rows = results_table().to_pylist()
    whole = [row for row in rows if row["range"] == "full" and row["saliency"] == "mean_abs"]
    (only,) = choose_settings(pa.Table.from_pylist(whole))
    assert (only.name, only.tau) == ("reference", None)
    renamed = [row | {"saliency": "random"} for row in whole]
    (fallback,) = choose_settings(pa.Table.from_pylist(renamed))
    assert (fallback.name, fallback.saliency) == ("fallback", "random")
    both = [row | {"saliency": name} for row in whole for name in ("separation", "probeless")]
    assert [found.saliency for found in choose_settings(pa.Table.from_pylist(both))] == ["probeless"]


@pytest.mark.parametrize(
    ("operators", "chosen"),
    [(("clamp", "zero"), "zero"), (("dampen", "clamp"), "clamp"), (("steer:-1",), "steer:-1")],
)
def test_zero_is_the_operator_of_a_setting_or_else_the_first_in_the_alphabet(
    operators: tuple[str, ...], chosen: str
) -> None:
    rows = [row | {"operator": name, "positions": "last"} for row in results_table().to_pylist() for name in operators]
    settings = choose_settings(pa.Table.from_pylist(rows))
    assert [(found.operator, found.positions) for found in settings] == [(chosen, "last")] * 2
    (one,) = choose_settings(pa.Table.from_pylist([row for row in rows if row["range"] == "full"][:1]))
    assert (one.operator, one.positions) == (operators[0], "last")
