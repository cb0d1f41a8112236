"""Which sites are edited together, and what joint.parquet says that gains over the best site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from neuronlens.evaluation.contrasts import row_parts
from neuronlens.evaluation.joint import SCHEMA, JointMethod, JointScores, joint_methods, joint_table
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.summary import sign_flip_p
from neuronlens.evaluation.text import PERPLEXITY
from neuronlens.evaluation.uncertainty import change_of_rate, difference, total
from tests.evaluation.by_hand import losing, method, scores
from tests.evaluation.edits import RESIDUAL
from tests.models import LAYERS

CONCEPTS = ("finance", "health", "sports")


def at(site, concept, **how):
    """A tuned method of a site."""
    own = method(concept, role="tuned", **how)
    return Method(replace(own.ranges, site=site), own.operator)


def joint_of(candidates, measured, counts):
    """What is edited together, where every candidate has been chosen at its site."""
    chosen = {(str(own.ranges.site), own.ranges.concept, "tuned"): i for i, own in enumerate(candidates)}
    rows = [dict(zip(("selectivity", "confidence_selectivity"), row, strict=True)) for row in measured]
    return joint_methods(candidates, chosen, rows, counts)


def test_the_best_sites_are_those_of_the_validation_rows():
    candidates = [at(site, concept) for site in RESIDUAL for concept in ("health", "sports")]
    measured = [(0.5, 0.1), (0.1, 0.1), (0.5, 0.3), (0.9, 0.8), (0.2, 0.2), (0.9, 0.9)]
    found = joint_of(candidates, measured, (2, 3))
    first, middle, last = RESIDUAL
    sites = [(part.concept, [own.ranges.site for own in part.methods]) for part in found]
    assert sites == [
        ("health", [middle, first]),
        ("health", [middle, first, last]),
        ("sports", [last, middle]),
        ("sports", [last, middle, first]),
    ]
    told = found[2].identity
    assert told["sites"] == [str(middle), str(last)], "in the order of the layers"
    assert (told["best_site"], told["count"], told["concept"]) == (str(last), 2, "sports")
    assert [part.site for part in found[2].edit("auto").items] == [middle, last]


def test_more_sites_than_there_are_means_all_of_them_once():
    candidates = [at(site, "sports") for site in RESIDUAL]
    found = joint_of(candidates, [(0.1, 0.1)] * LAYERS, (2, LAYERS + 1, LAYERS, 99))
    assert [len(part.methods) for part in found] == [2, LAYERS]
    assert joint_of(candidates, [(0.1, 0.1)] * LAYERS, ()) == []
    assert joint_of(candidates[:1], [(0.1, 0.1)], (2,)) == [], "a site alone has nothing beside it"


def test_without_validation_rows_no_site_is_the_best():
    candidates = [at(site, "sports") for site in RESIDUAL]
    assert joint_of(candidates, [], (2,)) == []
    assert joint_of(candidates, [(None, None)] * LAYERS, (2,)) == []


TRUTH = np.repeat([0, 1, 2], 20)


def table_by_hand(alone, together, concepts=CONCEPTS, seed=0, sites=(2,)):
    """joint.parquet of one joint edit a concept and number of sites; scores of the best site's edits, and of the joint ones."""
    order = (RESIDUAL[2], RESIDUAL[0], RESIDUAL[1])
    methods = [
        JointMethod(name, tuple(at(site, name) for site in order[:count])) for name in concepts for count in sites
    ]
    nothing = [dict.fromkeys(PERPLEXITY) for _ in methods]
    found = JointScores(methods, together, nothing, nothing)
    table = joint_table(found, alone, range(1, len(methods) + 1), seed)
    assert table.schema == SCHEMA
    return table.to_pylist()


def test_the_gain_is_the_difference_of_selectivities():
    alone = losing(TRUTH, {0: 5}, {1: 8, 0: 2}, {2: 12})
    together = losing(TRUTH, {0: 15}, {1: 8, 0: 2}, {2: 14, 1: 10})
    *rows, mean = table_by_hand(alone, together)
    for place, (row, name) in enumerate(zip(rows, CONCEPTS, strict=True), start=1):
        one, both = (measure(found, name, [place])[0] for found in (alone, together))
        assert {key: row[key] for key in both if not key.endswith("_adjusted")} == {
            key: value for key, value in both.items() if not key.endswith("_adjusted")
        }
        assert row["gain"] == pytest.approx(both["selectivity"] - one["selectivity"])
        assert row["confidence_gain"] == pytest.approx(both["confidence_selectivity"] - one["confidence_selectivity"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert [row["gain"] for row in rows] == pytest.approx([10 / 20, 0, 2 / 20 - 10 / 40])
    expected = difference(change_of_rate([10], [0], 20), change_of_rate([0], [0], 40))
    assert [rows[0][f"gain{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [float(part[0]) for part in expected]
    )
    assert rows[0]["gain_p"] == pytest.approx(2 / 2**10), "ten rows differ, all in one direction"
    assert rows[1]["gain_p"] == 1
    assert [row["gain_p_adjusted"] for row in rows] == pytest.approx([3 * 2 / 2**10, 1, rows[2]["gain_p"] * 3 / 2])
    assert (mean["concept"], mean["count"], mean["concepts"], mean["sites"]) == (None, 2, 3, None)
    for name in ("gain", "confidence_gain", "selectivity", "target_accuracy_drop", "complement_confidence_drop"):
        assert mean[name] == pytest.approx(np.mean([row[name] for row in rows]))
        assert mean[f"{name}_low"] < mean[name] < mean[f"{name}_high"]
    assert mean["gain_p_adjusted"] == mean["gain_p"], "one number of sites, nothing to correct for"


def test_an_edit_that_adds_nothing_gains_nothing():
    alone = losing(TRUTH, {0: 5}, {1: 8}, {2: 12})
    for row in table_by_hand(alone, alone):
        assert (row["gain"], row["confidence_gain"], row["gain_p"]) == (0, 0, 1)
        assert row["gain_low"] < 0 < row["gain_high"]


def test_the_test_swaps_the_two_edits_row_by_row():
    drawn = np.random.default_rng(3)
    alone, together = (scores(TRUTH, drawn.random((4, 60)) < 0.7) for _ in range(2))
    together = replace(together, predicted=np.concatenate([alone.predicted[:1], together.predicted[1:]]))
    row = table_by_hand(alone, together)[0]
    weights = np.where(TRUTH == 0, 1 / 20, -1 / 40)
    shift = (alone.correct[1].astype(float) - together.correct[1]) * weights
    assert shift.sum() == pytest.approx(row["gain"])
    assert row["gain_p"] == pytest.approx(float(sign_flip_p(shift[shift != 0][None], 0)[0]), rel=1e-12)


def test_two_concepts_can_decide():
    truth = np.repeat([0, 1], 60)
    alone, together = losing(truth, {0: 5}, {1: 5}), losing(truth, {0: 55}, {1: 50})
    mean = table_by_hand(alone, together, CONCEPTS[:2])[-1]
    assert mean["gain"] == pytest.approx((50 + 45) / 120)
    assert mean["gain_low"] > 0.6
    assert mean["gain_p_adjusted"] < 0.01


def test_a_concept_without_rows_has_no_gain_and_is_in_no_mean():
    truth = np.repeat([0, 1], 20)
    alone, together = losing(truth, {0: 5}, {1: 5}, {}), losing(truth, {0: 9}, {1: 9}, {})
    *rows, mean = table_by_hand(alone, together)
    assert [row["gain"] for row in rows] == [pytest.approx(0.2), pytest.approx(0.2), None]
    assert mean["concepts"] == 2
    assert mean["gain"] == pytest.approx(0.2)
    assert {rows[2][name] for name in ("gain_low", "confidence_gain", "confidence_gain_high", "gain_p")} == {None}


def test_a_concept_of_one_row_may_gain_all_there_is_to_gain():
    truth = np.array([0, 1, 1, 1, 2, 2, 2])
    alone, together = (scores(truth, np.ones((4, 7)), np.full((4, 7), sure)) for sure in (0.9, 0.4))
    together = replace(together, confidence=np.concatenate([alone.confidence[:1], together.confidence[1:]]))
    row, *_, mean = table_by_hand(alone, together)
    assert [mean["confidence_gain_low"], mean["confidence_gain_high"]] == [-2, 2]
    assert row["confidence_gain"] == pytest.approx(0, abs=1e-7)
    assert [row["confidence_gain_low"], row["confidence_gain_high"]] == pytest.approx([-1.5, 0.5])


def test_p_values_are_adjusted_over_the_concepts_of_a_number_of_sites():
    alone = losing(TRUTH, {0: 1}, {0: 2}, {1: 3}, {1: 1}, {2: 2}, {2: 4})
    together = losing(TRUTH, {0: 5}, {0: 9}, {1: 8, 0: 2}, {1: 12}, {2: 12}, {2: 14, 1: 6})
    rows = table_by_hand(alone, together, sites=(2, 3))
    assert [(row["concept"], row["count"]) for row in rows] == [
        *((name, count) for name in CONCEPTS for count in (2, 3)),
        *((None, count) for count in (2, 3)),
    ]
    for name in ("target_p", "complement_p", "gain_p"):
        for count in (2, 3):
            own = [row for row in rows if row["count"] == count and row["concept"] is not None]
            expected = false_discovery_control([row[name] for row in own])
            assert [row[f"{name}_adjusted"] for row in own] == pytest.approx(expected), name


def test_a_number_of_sites_of_which_nothing_is_known_has_no_mean_and_the_next_one_has():
    truth = np.repeat([0, 1], 20)
    alone, together = losing(truth, {}, {0: 5}), losing(truth, {}, {0: 9})
    methods = [
        JointMethod("sports", tuple(at(site, "sports") for site in RESIDUAL[:2])),
        JointMethod("finance", tuple(at(site, "finance") for site in RESIDUAL[:3])),
    ]
    nothing = [dict.fromkeys(PERPLEXITY) for _ in methods]
    rows = joint_table(JointScores(methods, together, nothing, nothing), alone, (1, 2), 0).to_pylist()
    assert [(row["concept"], row["count"]) for row in rows] == [("sports", 2), ("finance", 3), (None, 3)]


def test_the_mean_gain_has_the_interval_of_a_total_over_rows():
    """For answers a row may change as no row has, for confidences it may not."""
    drawn = np.random.default_rng(5)
    before = np.ones((1, 60), dtype=bool)
    alone, together = (
        scores(TRUTH, np.concatenate([before, drawn.random((3, 60)) < 0.8]), drawn.random((4, 60))) for _ in range(2)
    )
    both = together.confidence.copy()
    both[0] = alone.confidence[0]
    together = replace(together, confidence=both)
    *_, mean = table_by_hand(alone, together)
    scored = alone.beside(together)
    for measured, name in (("accuracy", "gain"), ("confidence", "confidence_gain")):
        one, most = row_parts(scored, [1, 2, 3], CONCEPTS, measured, 1.0, -1.0)
        two, _ = row_parts(scored, [4, 5, 6], CONCEPTS, measured, 1.0, -1.0)
        expected = total(two - one, TRUTH, most if measured == "accuracy" else 0.0, (-2.0, 2.0))
        found = [mean[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([float(part[0]) for part in expected])
        if measured == "accuracy":
            shift = (two - one)[:, (two - one)[0] != 0]
            assert mean["gain_p"] == pytest.approx(float(sign_flip_p(shift, 0)[0]), rel=1e-12)
