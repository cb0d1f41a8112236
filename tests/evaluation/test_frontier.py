"""The frontier: a path that validation rows choose, read on test rows at fixed drops, as a mixture of settings would have it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from neuronlens.evaluation.frontier import frontier_tables
from neuronlens.evaluation.matched import LEVELS, Losses
from tests.evaluation.by_hand import losing, method, scores

TWO = np.repeat([0, 1], 10)  # ten rows of finance, ten of health


def paper(count, concept="finance"):
    return [method(concept, tau=1.0 + i) for i in range(count)]


def tables(methods, tried, judged, losses=None, *, tried_at=None, judged_at=None, resamples=100, seed=0):
    places = range(1, len(methods) + 1)
    return frontier_tables(
        methods,
        (tried, tried_at or places),
        (judged, judged_at or places),
        losses,
        resamples=resamples,
        seed=seed,
    )


def readings(table, measure="accuracy", family="paper"):
    rows = [row for row in table.to_pylist() if (row["measure"], row["family"]) == (measure, family)]
    assert [row["target_drop"] for row in rows] == list(LEVELS)
    return rows


def complement(rows):
    return [row["complement_drop"] for row in rows]


TRIED = losing(TWO, {0: 5, 1: 1}, {0: 10, 1: 6}, {0: 2, 1: 2})
NAMES = [f"gaussian-{tau}/mean_abs/0.3/zero/all" for tau in (1, 2, 3)]


def test_the_path_goes_where_a_point_of_target_drop_costs_least():
    """From (0, 0) to (0.5, 0.1), which the third setting at (0.2, 0.2) has nothing to add to, and on to (1, 0.6)."""
    rows = readings(tables(paper(3), TRIED, TRIED)[0])
    assert complement(rows) == pytest.approx([0.02, 0.05, 0.1, 0.35, 0.5])
    assert [row["settings"] for row in rows] == [
        f"0.80 unedited + 0.20 {NAMES[0]}",
        f"0.50 unedited + 0.50 {NAMES[0]}",
        NAMES[0],
        f"0.50 {NAMES[0]} + 0.50 {NAMES[1]}",
        f"0.20 {NAMES[0]} + 0.80 {NAMES[1]}",
    ]


def test_the_tables_say_of_what_each_row_is_and_have_all_columns_where_they_have_no_rows():
    frontier, matched = tables(paper(3), TRIED, TRIED)
    ends = ("", "_low", "_high")
    assert {field.name: str(field.type) for field in frontier.schema} == {
        **dict.fromkeys(("site", "concept", "family", "measure"), "string"),
        "target_drop": "double",
        "reached": "bool",
        "reached_share": "double",
        "settings": "string",
        **{f"{name}{end}": "double" for name in ("complement_drop", "log_perplexity") for end in ends},
    }
    assert {field.name: str(field.type) for field in matched.schema} == {
        **dict.fromkeys(("site", "measure", "against"), "string"),
        "target_drop": "double",
        "concepts": "int32",
        "method_reaches": "int32",
        "other_reaches": "int32",
        **{f"{name}{end}": "double" for name in ("selectivity", "log_perplexity") for end in ends},
    }
    rows = frontier.to_pylist()
    site = str(paper(1)[0].ranges.site)
    assert {(row["site"], row["concept"]) for row in rows} == {(site, "finance")}
    assert {row["site"] for row in matched.to_pylist()} == {site}
    for empty, full in zip(
        tables([], scores(TWO, np.ones((1, 20), dtype=bool)), TRIED), (frontier, matched), strict=True
    ):
        assert empty.num_rows == 0
        assert empty.schema == full.schema


def test_a_step_is_judged_by_what_it_costs_from_where_the_path_stands():
    """From (0.4, 0.3) the way to (0.8, 0.4) is cheaper than that to (0.6, 0.38), which from the start would be the cheaper one."""
    truth = np.repeat([0, 1], 100)
    tried = losing(truth, {0: 40, 1: 20}, {0: 60, 1: 38}, {0: 80, 1: 46})
    rows = readings(tables(paper(3), tried, tried)[0])
    assert [row["settings"] for row in rows][2] == f"0.75 {NAMES[0]} + 0.25 {NAMES[2]}"
    assert complement(rows)[2] == pytest.approx(0.2 + 0.25 * 0.26)


def test_a_step_is_judged_by_what_it_adds_to_the_cost():
    """From (0.5, 0.2) the way to (0.6, 0.25) costs half a point a point, and that to (1, 0.5) more, although it goes farther."""
    tried = losing(np.repeat([0, 1], 100), {0: 50, 1: 20}, {0: 60, 1: 25}, {0: 100, 1: 50})
    rows = readings(tables(paper(3), tried, tried)[0])
    assert rows[3]["target_drop"] == 0.75
    assert NAMES[1] in rows[3]["settings"]
    assert complement(rows)[3] == pytest.approx(0.25 + 0.15 / 0.4 * 0.25)


def test_other_families_can_be_compared():
    places = [1, 2, 3]
    families = {"narrow": lambda own: own.ranges.tau < 2, "wide": lambda own: own.ranges.tau >= 2}
    frontier, matched = frontier_tables(
        paper(3),
        (TRIED, places),
        (TRIED, places),
        None,
        resamples=10,
        seed=0,
        families=families,
        family="narrow",
        against=["wide"],
    )
    assert {*frontier["family"].to_pylist()} == {"narrow", "wide"}
    assert {*matched["against"].to_pylist()} == {"wide"}
    assert {row["settings"] for row in readings(frontier, family="narrow")} >= {NAMES[0]}


def test_the_path_is_read_on_the_test_rows():
    """Settings one and two in this order, at (0.4, 0) and (0.8, 0.4); the third, best here and none of the path, is not looked at."""
    judged = losing(TWO, {0: 4}, {0: 8, 1: 4}, {0: 10})
    rows = readings(tables(paper(3), TRIED, judged)[0])
    assert complement(rows) == pytest.approx([0, 0, 0.1, 0.35, None])
    assert [row["reached"] for row in rows] == [True] * 4 + [False]
    assert rows[-1]["settings"] == ""
    assert [rows[-1][f"complement_drop_{end}"] for end in ("low", "high")] == [None, None]


def test_a_setting_that_takes_less_than_the_one_before_is_passed_over():
    judged = losing(TWO, {0: 6, 1: 3}, {0: 4, 1: 1}, {0: 0})
    rows = readings(tables(paper(3), TRIED, judged)[0])
    assert complement(rows) == pytest.approx([0.05, 0.125, 0.25, None, None])
    assert NAMES[1] not in rows[2]["settings"]
    steps = losing(TWO, {0: 3}, {0: 6, 1: 1}, {0: 10, 1: 4})
    further = readings(tables(paper(3), steps, losing(TWO, {0: 4, 1: 1}, {0: 2, 1: 5}, {0: 10, 1: 8}))[0])
    assert complement(further)[3:] == pytest.approx([0.1 + 0.7 * 0.35 / 0.6, 0.1 + 0.7 * 0.5 / 0.6])
    assert further[3]["settings"] == f"0.42 {NAMES[0]} + 0.58 {NAMES[2]}"


def test_of_equally_good_settings_the_farthest_is_walked_to():
    """Whatever the test rows say of those between."""
    tried = losing(TWO, {0: 3, 1: 3}, {0: 9, 1: 9}, {0: 6, 1: 6})
    rows = readings(tables(paper(3), tried, losing(TWO, {0: 3}, {0: 10, 1: 10}, {0: 6}))[0])
    assert complement(rows) == pytest.approx(LEVELS)


def test_a_setting_that_spares_the_complement_pays():
    """Drops of the complement may be negative: an edit may put right what was wrong."""
    correct = np.ones((3, 20), dtype=bool)
    correct[0, 10:14] = False  # four rows of the complement are wrong, and right under the second edit
    correct[1, :5], correct[2, :10] = False, False
    correct[1, 10:14] = False
    rows = readings(tables(paper(2), scores(TWO, correct), scores(TWO, correct))[0])
    assert complement(rows) == pytest.approx([-0.4 * level for level in LEVELS])


def test_a_mixture_gives_the_value_in_expectation():
    """Rows draw lots: the second setting for a share of them, the first for the others."""
    drawn = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)
    target = (truth == 0)[None]
    lost = drawn.random((2, 120)) < np.where(target, [[0.25], [0.85]], [[0.05], [0.3]])
    before = np.where(target, True, drawn.random(120) < 0.9)
    rows = scores(truth, np.concatenate([before, before & ~lost]))
    found = dict(zip(LEVELS, complement(readings(tables(paper(2), rows, rows)[0])), strict=True))
    drops = before * 1.0 - rows.correct[1:]
    first, second = drops[:, truth == 0].mean(axis=1)
    assert first < 0.5 < second
    repeats, share = 20_000, (0.5 - first) / (second - first)
    mixed = np.where(drawn.random((repeats, 120)) < share, drops[1], drops[0])
    for members, expected in ((truth == 0, 0.5), (truth != 0, found[0.5])):
        means = mixed[:, members].mean(axis=1)
        assert means.mean() == pytest.approx(expected, abs=4 * means.std() / math.sqrt(repeats))


def test_confidence_is_matched_on_the_confidence_drop():
    """Halving every confidence of the target takes 0.5 of it and no answer."""
    right = np.ones((2, 20), dtype=bool)
    sure = np.ones((2, 20))
    sure[1, :10], sure[1, 10:] = 0.5, 0.9
    rows = scores(TWO, right, sure)
    table, _ = tables(paper(1), rows, rows)
    assert complement(readings(table, "confidence")) == pytest.approx([0.02, 0.05, 0.1, None, None])
    assert complement(readings(table)) == [None] * 5


def test_without_validation_rows_of_a_concept_nothing_is_reached():
    tried = losing([1] * 5 + [2] * 5, {1: 2}, {1: 3}, {})
    assert complement(readings(tables(paper(3), tried, TRIED)[0])) == [None] * 5


def test_perplexity_is_read_along_the_path_of_accuracy():
    predicted = np.array([10, 30])
    change = np.array([[0, 0], [1, 7], [4, 4], [100, 100]])  # log ratios 0.2 and 0.2, and 2.5 off the path
    losses = Losses(np.array([20.0, 90.0]) + change, predicted)
    rows = readings(tables(paper(3), TRIED, TRIED, losses, resamples=400)[0])
    assert [row["log_perplexity"] for row in rows] == pytest.approx([0.04, 0.1, 0.2, 0.2, 0.2])
    steep = Losses(np.array([20.0, 90.0]) + np.array([[0, 0], [1, 7], [8, 24], [0, 0]]), predicted)
    found = readings(tables(paper(3), TRIED, TRIED, steep, resamples=400)[0])
    assert found[3]["log_perplexity"] == pytest.approx((0.2 + 0.8) / 2)
    assert found[3]["log_perplexity_low"] <= found[3]["log_perplexity"] <= found[3]["log_perplexity_high"]
    # documents that all lose alike per token leave no doubt, whichever are drawn
    alike = Losses(np.array([20.0, 90.0]) + np.array([[0], [0.2], [0.2], [0]]) * predicted, predicted)
    last = readings(tables(paper(3), TRIED, TRIED, alike, resamples=400)[0])[-1]
    assert [last[f"log_perplexity{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.2] * 3)
    silent = readings(tables(paper(3), TRIED, TRIED)[0])
    assert {row["log_perplexity"] for row in silent} == {None}
    assert complement(silent) == complement(rows)


def twins(concepts=("finance", "health")):
    """Methods of two families that are the same edits, and where they lie in the scores."""
    own = [one for concept in concepts for one in paper(2, concept)]
    same = [method(concept, tau=1.0 + i, role="tuned") for concept in concepts for i in range(2)]
    return own + same, [*range(1, len(own) + 1)] * 2


def test_a_family_against_itself_differs_by_nothing():
    drawn = np.random.default_rng(0)
    rows = scores(TWO, drawn.random((5, 20)) < np.array([0.9, 0.6, 0.2, 0.6, 0.2])[:, None], drawn.random((5, 20)))
    losses = Losses(drawn.random((5, 7)), np.arange(2, 9))
    methods, places = twins()
    _, matched = tables(methods, rows, rows, losses, tried_at=places, judged_at=places)
    found = [row for row in matched.to_pylist() if row["against"] == "paper" and row["concepts"]]
    assert found
    for row in found:
        assert row["method_reaches"] == row["other_reaches"] == row["concepts"]
        for name in ("selectivity", "log_perplexity"):
            assert [row[f"{name}{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_the_difference_is_a_mean_over_the_concepts_that_both_reach():
    """At a drop of a half: finance costs 0.1 against 0.3; health is out of the other's reach."""
    tuned = [method(concept, role="tuned") for concept in ("finance", "health")]
    methods = [*tuned, *paper(1), *paper(1, "health")]
    rows = losing(TWO, {0: 5, 1: 1}, {1: 5, 0: 2}, {0: 5, 1: 3}, {1: 4})
    frontier, matched = tables(methods, rows, rows)
    found = next(
        row
        for row in matched.to_pylist()
        if (row["measure"], row["against"], row["target_drop"]) == ("accuracy", "paper", 0.5)
    )
    assert (found["concepts"], found["method_reaches"], found["other_reaches"]) == (1, 2, 1)
    assert found["selectivity"] == pytest.approx(0.2), "what the complement is spared"
    assert found["selectivity_low"] <= found["selectivity"] <= found["selectivity_high"]
    whole = [row for row in matched.to_pylist() if row["against"] == "whole"]
    assert {(row["concepts"], row["selectivity"]) for row in whole} == {(0, None)}
    assert {row["family"] for row in frontier.to_pylist()} == {"paper", "tuned"}


def test_the_share_of_resamples_that_reach_a_drop_is_that_of_the_targets_rows():
    """Half of 20 rows are lost: a drop of 0.5 is reached in half of the draws or a little more, 0.1 always, 0.9 never."""
    rows = losing(np.repeat([0, 1], 20), {0: 10, 1: 2})
    found = readings(tables(paper(1), rows, rows, resamples=4000)[0])
    shares = {row["target_drop"]: row["reached_share"] for row in found}
    draws = np.random.default_rng(1).binomial(19, 0.5, 200_000) * (20 / 19) / 20
    for level, share in shares.items():
        assert share == pytest.approx((draws >= level - 1e-12).mean(), abs=0.03)
    assert (shares[0.1], shares[0.9]) == (1.0, 0.0)
    assert [row["reached"] for row in found] == [True, True, True, False, False]


def test_from_one_document_nothing_can_be_said_and_one_row_leaves_all_open():
    rows = losing([0, 0, 1, 1], {0: 2, 1: 1})
    one = Losses(np.array([[20.0], [22.0]]), np.array([10]))
    (found, *_) = readings(tables(paper(1), rows, rows, one)[0])
    assert {found[f"log_perplexity{end}"] for end in ("", "_low", "_high")} == {None}
    alone = losing([0, 1, 1], {0: 1, 1: 1})
    (found, *_) = readings(tables(paper(1), alone, alone)[0])
    assert (found["complement_drop_low"], found["complement_drop_high"]) == (-1, 1)


def test_equal_seeds_draw_equally():
    drawn = np.random.default_rng(0)
    rows = scores(TWO, drawn.random((3, 20)) < np.array([0.9, 0.5, 0.2])[:, None])
    one, same, other = (readings(tables(paper(2), rows, rows, seed=seed)[0]) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert complement(one) == complement(other)


def test_the_interval_of_the_difference_covers():
    """Two families with known curves, two concepts, 80 rows of each: rows are drawn again and again."""
    truth, repeats, level = np.repeat([0, 1], 80), 300, 0.5
    curves = {"tuned": ((0.35, 0.05), (0.75, 0.2)), "paper": ((0.35, 0.15), (0.75, 0.4))}  # (target, complement)
    methods = [
        method(concept, tau=1.0 + i, role="tuned" if family == "tuned" else "sweep")
        for family in curves
        for concept in ("finance", "health")
        for i in range(2)
    ]
    own = [0, 0, 1, 1] * 2
    points = [point for curve in curves.values() for point in curve * 2]
    tried = losing(
        np.repeat([0, 1], 100),
        *(
            {at: round(100 * target), 1 - at: round(100 * other)}
            for at, (target, other) in zip(own, points, strict=True)
        ),
    )
    chance = np.array([np.where(truth == at, target, other) for at, (target, other) in zip(own, points, strict=True)])
    at_level = {family: np.interp(level, *zip((0, 0), *curve, strict=True)) for family, curve in curves.items()}
    true, drawn, covered = at_level["paper"] - at_level["tuned"], np.random.default_rng(0), 0
    for seed in range(repeats):
        # the same rows are easily lost under all edits
        lots = 0.8 * drawn.standard_normal(len(truth)) + 0.6 * drawn.standard_normal(chance.shape)
        correct = np.concatenate([np.ones((1, len(truth))), lots >= norm.ppf(chance)])
        _, matched = tables(methods, tried, scores(truth, correct), resamples=400, seed=seed)
        row = next(
            row
            for row in matched.to_pylist()
            if (row["measure"], row["against"], row["target_drop"]) == ("accuracy", "paper", level)
        )
        covered += row["selectivity_low"] <= true <= row["selectivity_high"]
    assert 0.92 <= covered / repeats <= 0.98
