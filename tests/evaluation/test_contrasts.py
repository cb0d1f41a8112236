"""Contrasts are means of what results.parquet says of each concept, with intervals over rows that two concepts are enough for."""

from __future__ import annotations

import numpy as np
import pytest

from neuronlens.evaluation.contrasts import EFFECTS, contrasts_table
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.uncertainty import total
from tests.evaluation.by_hand import SITE, losing, scores

CONCEPTS = ("finance", "health", "sports")
COUNTS = (9, 14, 20)
TRUTH = np.repeat([0, 1, 2], COUNTS)


def random_scores(edits, truth=TRUTH, seed=0):
    drawn = np.random.default_rng(seed)
    shape = (edits + 1, len(truth))
    return scores(truth, drawn.random(shape) < 0.6, drawn.random(shape))


def chosen(**edits):
    """(site, method) -> concept -> edit, from method=[edit of each concept]."""
    return {
        (str(SITE), name.replace("_of_", "/")): {
            concept: at for concept, at in zip(CONCEPTS, places, strict=True) if at
        }
        for name, places in edits.items()
    }


def found(table):
    return {(row["method"], row["against"], row["effect"]): row for row in table.to_pylist()}


def test_means_are_those_of_the_results_over_concepts():
    rows = random_scores(6)
    edits = {"tuned": [1, 2, 3], "paper": [4, 5, 6], "whole": [3, 6, 1], "tuned_of_random_neurons": [2, 2, 5]}
    table = found(contrasts_table(rows, chosen(**edits)))
    measured = {
        name.replace("_of_", "/"): [
            measure(rows, concept, [place])[0] for concept, place in zip(CONCEPTS, places, strict=True)
        ]
        for name, places in edits.items()
    }
    pairs = [("tuned", None), ("tuned", "paper"), ("tuned", "whole"), ("tuned", "tuned/random_neurons")]
    pairs += [("paper", None), ("paper", "whole")]
    assert {*table} == {(*pair, effect) for pair in pairs for effect in EFFECTS}
    for (method, against, effect), row in table.items():
        expected = np.mean([own[effect] for own in measured[method]])
        if against is not None:
            expected -= np.mean([other[effect] for other in measured[against]])
        assert row["mean"] == pytest.approx(expected, abs=1e-7)
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["concepts"] == 3


def test_every_row_says_of_which_site_it_is():
    sites = ("mlp_post.0", "resid_post.2")
    edits = {(site, name): {"finance": at} for site in sites for name, at in (("tuned", 1), ("paper", 2))}
    truth = np.repeat([0, 1], 10)
    rows = contrasts_table(losing(truth, {}, {0: 5}, {0: 2}), edits).to_pylist()
    assert {row["site"] for row in rows} == {*sites}
    empty = contrasts_table(losing(truth, {}, {0: 5}, {0: 2}), {})
    assert empty.num_rows == 0
    assert empty.schema == contrasts_table(losing(truth, {}, {0: 5}, {0: 2}), edits).schema


def test_the_interval_is_that_of_a_sum_over_rows():
    rows = random_scores(6)
    table = found(contrasts_table(rows, chosen(tuned=[1, 2, 3], paper=[4, 5, 6])))
    for effect, (measured, target, complement) in EFFECTS.items():
        values = rows.correct.astype(float) if measured == "accuracy" else rows.confidence.astype(float)
        parts, single = np.zeros(len(TRUTH)), 0.0
        for place, (own, other) in enumerate(zip([1, 2, 3], [4, 5, 6], strict=True)):
            for row, truth in enumerate(TRUTH):
                weight = target / COUNTS[place] if truth == place else complement / (len(TRUTH) - COUNTS[place])
                parts[row] += weight * (values[other, row] - values[own, row]) / 3
                single = max(single, abs(weight) / 3)
        expected = total(parts[None], TRUTH, single if measured == "accuracy" else 0.0)
        ours = [table["tuned", "paper", effect][name] for name in ("mean", "low", "high")]
        np.testing.assert_allclose(ours, np.concatenate(expected), atol=1e-12)


def test_a_method_against_itself_differs_by_nothing():
    table = found(contrasts_table(random_scores(3), chosen(tuned=[1, 2, 3], paper=[1, 2, 3])))
    for effect, (measured, *_) in EFFECTS.items():
        row = table["tuned", "paper", effect]
        assert row["mean"] == 0
        assert row["low"] == -row["high"]
        assert (row["high"] > 0) == (measured == "accuracy"), "a row that was not seen may change its answer"


def test_two_concepts_can_decide():
    """Rows are the units: with 60 of each concept, a drop of everything is clear of none, whatever the number of concepts."""
    truth = np.repeat([0, 1], 60)
    drawn = np.random.default_rng(1)
    right = np.ones((5, 120), dtype=bool)
    right[1, :60] = right[2, 60:] = False  # the tuned method breaks its target and nothing else
    right[3:] = drawn.random((2, 120)) < 0.8  # the other breaks a fifth of all rows
    edits = {
        (str(SITE), name): dict(zip(CONCEPTS[:2], places, strict=True))
        for name, places in (("tuned", (1, 2)), ("paper", (3, 4)))
    }
    row = found(contrasts_table(scores(truth, right, concepts=CONCEPTS[:2]), edits))["tuned", "paper", "selectivity"]
    assert row["mean"] == pytest.approx(1, abs=0.15)
    assert 0.7 < row["low"] < row["high"] <= 2


def test_only_concepts_that_both_methods_have_are_compared():
    rows = random_scores(4)
    table = found(contrasts_table(rows, chosen(tuned=[1, 2, 3], paper=[4, 4, None])))
    alone = found(contrasts_table(rows, chosen(tuned=[1, 2, None], paper=[4, 4, None])))
    assert table["tuned", None, "selectivity"]["concepts"] == 3
    assert table["tuned", "paper", "selectivity"] == alone["tuned", "paper", "selectivity"]
    assert alone["tuned", "paper", "selectivity"]["concepts"] == 2
    assert ("tuned", "whole", "selectivity") not in table


def test_no_interval_reaches_further_than_a_drop_can():
    """A concept with a single row says nothing of its scatter, and its interval is everything there is."""
    truth = np.array([0, 1, 1, 2, 2, 2])
    table = found(contrasts_table(random_scores(6, truth), chosen(tuned=[1, 2, 3], paper=[4, 5, 6])))
    for (_, _, effect), row in table.items():
        reach = 2 if "selectivity" in effect else 1
        assert (row["low"], row["high"]) == (-reach, reach)
