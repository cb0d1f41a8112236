"""Validation rows choose the best, ties go to what edits least, and where there are none the first candidate is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.evaluation.choice import FAMILIES, choose, members, rank
from tests.evaluation.by_hand import SITE, method

NAN = float("nan")


def candidates(*doses):
    """Gaussian methods of growing width that edit so many ordinary tokens."""
    return [method("sports", tau=1.0 + i, dose=dose) for i, dose in enumerate(doses)]


@given(
    st.lists(
        st.tuples(*[st.integers(-10, 10).map(lambda tenths: tenths / 10)] * 2, st.sampled_from([0.1, 0.2, 0.3])),
        min_size=1,
        max_size=6,
    )
)
def test_the_best_wins_then_the_least_dose_then_the_first(found):
    selectivity, confidence, doses = (np.array(column) for column in zip(*found, strict=True))
    plain = [(-round((s + c) * 10), dose, i) for i, (s, c, dose) in enumerate(found)]
    assert choose(candidates(*doses), selectivity, confidence) == min(plain)[2]
    assert rank(candidates(*doses), selectivity, confidence) == [place for *_, place in sorted(plain)]


def test_what_rounding_leaves_decides_nothing():
    assert choose(candidates(0.3, 0.1), np.array([0.3, 0.1 + 0.2 - 1e-12]), np.zeros(2)) == 1
    assert choose(candidates(0.3, 0.1), np.array([0.3 + 1e-4, 0.3]), np.zeros(2)) == 0, (
        "a ten-thousandth is no rounding"
    )


def test_what_was_not_measured_is_not_chosen_where_others_were():
    assert choose(candidates(0.1, 0.2), np.array([NAN, -0.5]), np.array([NAN, -0.5])) == 1


@pytest.mark.parametrize("doses", [(0.1, 0.2), (0.2, 0.1), (NAN, NAN)])
def test_without_validation_rows_the_first_is_taken(doses):
    assert choose(candidates(*doses), np.full(2, NAN), np.full(2, NAN)) == 0


def test_where_no_ordinary_tokens_were_read_ties_go_to_the_first():
    assert choose(candidates(NAN, NAN, NAN), np.array([0.1, 0.2, 0.2]), np.zeros(3)) == 1


def test_a_family_holds_its_own_methods_of_the_concept_in_order():
    known = [
        method("sports", tau=2.0),
        method("sports", "full", tau=None),
        method("sports", role="tuned"),
        method("sports", tau=2.5, top=0.1),
        method("sports", saliency="d_prime"),
        method("sports", operator="dampen"),
        method("sports", "random_neurons"),
        method("sports", "random_neurons", role="tuned"),
        method("health"),
    ]
    found = {family: members(known, str(SITE), "sports", family) for family in FAMILIES}
    assert found == {"paper": [0, 3], "whole": [1], "tuned": [2]}
    assert members(known, "resid_post.0", "sports", "paper") == []
