"""Which sites are edited together, and what joint.parquet says that gains over the best site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuronlens.evaluation.joint import JointMethod, JointScores, joint_methods, joint_table
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.summary import sign_flip_p
from neuronlens.evaluation.text import PERPLEXITY
from neuronlens.evaluation.uncertainty import change_of_rate, difference
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


def table_by_hand(alone, together, concepts=CONCEPTS, seed=0):
    """joint.parquet of one joint edit a concept; [C] scores of the best site's edits, and of the joint ones."""
    methods = [JointMethod(name, (at(RESIDUAL[2], name), at(RESIDUAL[0], name))) for name in concepts]
    nothing = [dict.fromkeys(PERPLEXITY) for _ in concepts]
    found = JointScores(methods, together, nothing, nothing)
    return joint_table(found, alone, range(1, len(concepts) + 1), seed).to_pylist()


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
    # the patterns are drawn, so another draw gives nearly the same
    assert row["gain_p"] == pytest.approx(float(sign_flip_p(shift[None], 1)[0]), abs=0.03)


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
