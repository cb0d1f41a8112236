"""Points at a matched target drop, and how far single rows and documents move them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuronlens.evaluation.matched import LEVELS, Losses, read_path, spread
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
