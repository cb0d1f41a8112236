"""Points at a matched target drop, and how far single rows and documents move them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuronlens.evaluation.matched import LEVELS, Losses, Point, read_path, spread
from neuronlens.evaluation.uncertainty import total
from tests.evaluation.by_hand import scores


def test_single_rows_move_a_point_as_far_as_its_interval_takes_them_to():
    """Each row is counted a little more, and the path read again: its effect to first order is what the interval adds up."""
    drawn = np.random.default_rng(3)
    truth = np.repeat([0, 1, 2], [30, 20, 25])
    chances = np.where(truth == 0, [[0.3], [0.8]], [[0.1], [0.3]])
    judged = scores(truth, np.concatenate([np.ones((1, 75), bool), drawn.random((2, 75)) > chances]))
    losses = Losses(np.concatenate([np.full((1, 6), 50.0), 50 + drawn.random((2, 6)) * [[2], [9]]]), np.arange(20, 26))

    def read(more=None, document=None):
        """At a drop of a half, by hand: linear between neighbours, from weighted rows and documents."""
        weights, kept = np.ones(75), np.ones(6)
        if more is not None:
            weights[more] += 1e-6
        if document is not None:
            kept[document] += 1e-6
        lost = (judged.correct[0] * 1.0 - judged.correct[1:]) @ np.diag(weights)
        at, cost = (lost[:, part].sum(axis=1) / weights[part].sum() for part in (truth == 0, truth != 0))
        spent = (losses.losses[1:] - losses.losses[0]) @ kept / (losses.predicted @ kept)
        return np.array([np.interp(0.5, [0, *at], [0, *cost]), np.interp(0.5, [0, *at], [0, *spent])])

    point = read_path(judged, "finance", "accuracy", [1, 2], losses, np.ones((1, 75)), ["a", "b"]).points[2]
    exact = read()
    assert [point.complement, point.log_perplexity] == pytest.approx(exact)
    assert 0 < dict(point.mix)[1] < 1
    for row in range(75):
        own = truth == truth[row]
        moved = (read(row) - exact) / 1e-6
        # more weight on one row of a group takes weight from the others: influence is around the group's mean
        group = own if truth[row] == 0 else truth != 0
        for parts, step in zip((point.rows, point.rows_of_perplexity), moved, strict=True):
            assert parts[row] - parts[group].mean() == pytest.approx(step, abs=1e-5)
    for document in range(6):
        step = (read(document=document) - exact)[1] / 1e-6
        assert point.documents[document] == pytest.approx(step, abs=1e-5)


def test_the_interval_of_one_setting_reached_exactly_is_that_of_its_complement_drop():
    """Half of the target is lost, so the setting is not mixed; with no rise along the path the target's rows have no say."""
    truth = np.repeat([0, 1], [20, 40])
    sure = np.ones((2, 60))
    sure[1, :20], sure[1, 20:] = 0.5, 1 - np.linspace(-0.1, 0.1, 40)
    judged = scores(truth, np.ones((2, 60), dtype=bool), sure)
    point = read_path(judged, "finance", "confidence", [1], None, np.ones((1, 60)), ["a"]).points[LEVELS.index(0.5)]
    row = spread("complement_drop", "confidence", [point], [], truth)
    error = stats.sem(sure[1, 20:])
    assert row["complement_drop"] == pytest.approx(0, abs=1e-7)
    assert row["complement_drop_high"] == pytest.approx(stats.t.ppf(0.975, 39) * error, rel=1e-4)
    assert row["complement_drop_low"] == pytest.approx(-row["complement_drop_high"], rel=1e-4)
    assert row["log_perplexity"] is None


def path_of(truth, *lost, weights=None):
    """A path on rows that are all right unedited: at each setting some of the target's rows are lost, and no others."""
    truth = np.asarray(truth)
    right = np.ones((len(lost) + 1, len(truth)), dtype=bool)
    for i, count in enumerate(lost, start=1):
        right[i, np.flatnonzero(truth == 0)[:count]] = False
    weights = np.ones((1, len(truth))) if weights is None else weights
    names = [f"setting {i}" for i in range(len(lost))]
    return read_path(scores(truth, right), "finance", "accuracy", [*range(1, len(lost) + 1)], None, weights, names)


def test_a_point_is_of_the_settings_that_are_mixed_and_of_no_other():
    assert [point.mix for point in path_of(np.repeat([0, 1], [20, 40]), 5, 10, 20).points[1:3]] == [
        ((1, 1.0),),  # reached exactly, without what is not edited, and without the one before
        ((2, 1.0),),
    ]
    read = path_of(np.repeat([0, 1], [20, 40]), 10, 20)
    mixes = [point.mix for point in read.points]
    assert mixes == [
        ((1, pytest.approx(0.2)),),  # with what is not edited
        ((1, 0.5),),
        ((1, 1.0),),
        ((1, 0.5), (2, 0.5)),
        ((1, pytest.approx(0.2)), (2, pytest.approx(0.8))),
    ]
    assert read.settings[1:4] == ("0.50 unedited + 0.50 setting 0", "setting 0", "0.50 setting 0 + 0.50 setting 1")
    for point in read.points:
        assert point.unseen == 1 / 40
        assert point.log_perplexity is None
        assert point.rows_of_perplexity.tolist() == [0] * 60
        assert point.documents.shape == (0,)


def test_a_drop_is_reached_in_the_resamples_that_lose_enough_of_the_target():
    read = path_of([0, 1, 1, 1], 1)
    assert read.reached_share.tolist() == [1] * len(LEVELS), "one row, which is lost"
    weights = np.array([[0, 2, 1, 1, 1.0], [1, 1, 1, 1, 1], [2, 0, 1, 1, 1]])
    read = path_of([0, 0, 1, 1, 1], 1, weights=weights)
    assert read.reached_share.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 3, 1 / 3])


def test_without_rows_of_others_nothing_is_said():
    read = path_of(np.zeros(8), 4, 8)
    assert read.points == (None,) * len(LEVELS)
    assert read.settings == ("",) * len(LEVELS)


def test_the_mean_over_concepts_has_the_interval_of_a_total_over_rows():
    """What a row may add that changes as no row has counts for answers alone, and not where both mix the same settings."""
    drawn = np.random.default_rng(7)
    truth = np.repeat([0, 1, 2], 12)

    def point(complement, mix):
        rows, documents = drawn.normal(size=36) / 36, drawn.normal(size=5) / 5
        return Point(complement, rows, 1 / 24, complement / 2, rows / 3, documents, mix)

    one = [point(0.1, ((1, 1.0),)), point(0.3, ((2, 1.0),))]
    other = [point(0.5, ((3, 1.0),)), point(0.2, ((4, 1.0),))]

    def expected(value, parts, strata, unseen, most):
        around = total(parts[None], strata, unseen)
        low, high = (value + float(end[0] - around.value[0]) for end in (around.low, around.high))
        return [value, max(low, -most), min(high, most)]

    def found(row, name):
        return pytest.approx([row[name], row[f"{name}_low"], row[f"{name}_high"]], rel=1e-9)

    own = (one[0].rows + one[1].rows) / 2
    against = -(one[0].rows - other[0].rows + one[1].rows - other[1].rows) / 2
    for measure, unseen in (("accuracy", 1 / 48), ("confidence", 0.0)):
        row = spread("complement_drop", measure, one, [], truth)
        assert expected(0.2, own, truth, unseen, 1.0) == found(row, "complement_drop")
        row = spread("selectivity", measure, one, other, truth)
        assert expected(0.15, against, truth, unseen, 2.0) == found(row, "selectivity")
        same = [Point(**{**vars(two), "mix": first.mix}) for first, two in zip(one, other, strict=True)]
        row = spread("selectivity", measure, one, same, truth)
        assert expected(0.15, against, truth, 0.0, 2.0) == found(row, "selectivity")
        row = spread("complement_drop", measure, one, [], truth)
        parts = [(one[0].rows_of_perplexity + one[1].rows_of_perplexity) / 2]
        parts += [(one[0].documents + one[1].documents) / 2]
        strata = np.concatenate([truth, np.full(5, -1)])
        assert expected(0.1, np.concatenate(parts), strata, 0.0, np.inf) == found(row, "log_perplexity")


def test_limits_end_where_drops_do():
    """A drop lies between -1 and 1, a difference of two between -2 and 2."""
    truth = np.repeat([0, 1], 3)
    rows = np.array([3.0, -3, 0, 2, -2, 0])
    one, other = (
        Point(0.5, rows * sign, 1 / 3, None, 0 * rows, np.zeros(0), ((at, 1.0),)) for at, sign in ((1, 1), (2, -1))
    )
    row = spread("complement_drop", "accuracy", [one], [], truth)
    assert [row["complement_drop_low"], row["complement_drop_high"]] == [-1, 1]
    row = spread("selectivity", "accuracy", [one], [other], truth)
    assert [row["selectivity_low"], row["selectivity_high"]] == [-2, 2]
    empty = spread("selectivity", "accuracy", [], [], truth)
    assert empty == {
        f"{name}{end}": None for name in ("selectivity", "log_perplexity") for end in ("", "_low", "_high")
    }
