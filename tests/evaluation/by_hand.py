"""What the tests of the evaluation share: edits, methods and scores made by hand, which no fit and no model stands behind."""

from __future__ import annotations

import numpy as np
import torch

from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.scoring import RowScores
from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.operators import Target
from neuronlens.ranges.selection import Ranges
from neuronlens.sites import Site

SITE = Site(2, "resid_post")


def masking(site, neurons, lower, upper, operator="zero", *, written=None, **how):
    """An edit of ranges [K, 1].

    Args:
        written: [K] what `complement_mean` writes; 0 unless told otherwise.
    """
    zeros = torch.zeros(len(neurons))
    replacement = zeros if written is None else written
    target = Target(lower[:, 0], upper[:, 0], zeros, zeros + 1, replacement, zeros + 1, zeros)
    return Intervention(site, neurons, lower, upper, target, operator, **how)


def method(concept, kind="gaussian", *, saliency="mean_abs", top=0.3, tau=2.0, role="sweep", operator="zero", dose=0.5):
    """A method of two neurons. dose: share of ordinary tokens that each edits."""
    numbers = dict.fromkeys(
        ("dose_target", "dose_complement", "mean", "std", "complement_mean", "complement_std", "pooled_mean"),
        np.ones(2),
    )
    width = np.full((2, 1), np.inf if tau is None else tau, dtype=np.float32)
    ranges = Ranges(
        SITE,
        concept,
        saliency,
        top,
        kind,
        kind,
        tau,
        threshold=None,
        gate="none",
        role=role,
        neurons=np.arange(2),
        lower=-width,
        upper=width,
        dose_ordinary=np.full(2, dose),
        **numbers,
    )
    return Method(ranges, operator)


def scores(truth, correct, confidence=None, *, concepts=("finance", "health", "sports"), dose=None):
    """Scores of rows.

    Args:
        truth: [N] number of each row's concept.
        correct: [M + 1, N] whether it is named, without an edit and under each.
        confidence: [M + 1, N]; 1 where it is named and 0 elsewhere, unless told otherwise.
        dose: [M + 1, N] activations changed and [M + 1, N] looked at; 0 of 1 unless told otherwise.
    """
    truth, correct = np.asarray(truth), np.asarray(correct, dtype=bool)
    changed, looked_at = dose or (np.zeros(correct.shape, dtype=np.int64), np.ones(correct.shape, dtype=np.int64))
    return RowScores(
        concepts,
        np.arange(len(truth)),
        truth,
        np.where(correct, truth, (truth + 1) % len(concepts)),
        np.asarray(correct if confidence is None else confidence, dtype=np.float32),
        changed,
        looked_at,
        0.0,
        0.0,
    )


def losing(truth, *lost):
    """Scores of rows that are all right without an edit, and under each edit lose the first so many of each concept.

    Args:
        truth: [N].
        lost: per edit, concept number -> rows lost.
    """
    truth = np.asarray(truth)
    place = np.array([(truth[:i] == own).sum() for i, own in enumerate(truth)])
    correct = [[place[i] >= edit.get(int(own), 0) for i, own in enumerate(truth)] for edit in lost]
    return scores(truth, [np.ones(len(truth), dtype=bool), *correct])
