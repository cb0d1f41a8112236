"""Shares of rows in an interval, read off rows in order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.ranges.ordered import Ordered
from tests.ranges.sample import CONCEPTS, inside, statistics

# few different values, both zeros among them, so that many rows share one and bounds lie on rows
VALUES = st.sampled_from([-np.inf, -1.5, -1.0, -0.0, 0.0, 0.5, 1.0, np.inf])
FINITE = VALUES.filter(np.isfinite)


def columns(values, width):
    return st.lists(st.lists(values, min_size=width, max_size=width), min_size=4, max_size=4).map(
        lambda rows: np.array(rows, dtype=np.float32).reshape(4, width)
    )


@settings(max_examples=300, deadline=None)
@given(columns(FINITE, 5), columns(FINITE, 9), columns(VALUES, 2), st.lists(st.integers(0, 3), min_size=2, max_size=2))
def test_shares_are_those_of_a_look_at_every_row(own, rest, bounds, neurons):
    """Closed at both ends; an interval whose ends have changed places holds nothing; neurons in any order, and again."""
    picked = np.array(neurons)
    lower, upper = bounds[picked, 0], bounds[picked, 1]
    found = Ordered.of(own, rest, np.empty((4, 0), dtype=np.float32)).shares(picked, lower, upper)
    for part, share in zip((own, rest), found, strict=False):
        assert share.tolist() == inside(part[picked], lower[:, None], upper[:, None]).mean(axis=1).tolist()
    assert np.isnan(found[2]).tolist() == [True, True]


def test_a_concept_is_put_in_order_once_in_turn():
    ours = statistics()
    for concept in CONCEPTS:
        found = ours.ordered(concept)
        assert ours.ordered(concept) is found
        assert ours.densities(concept) is ours.densities(concept)
        parts = (ours.values[ours.index(concept)], ours.complement(concept), ours.ordinary.without(concept))
        for one, other in zip((found.own, found.complement, found.ordinary), parts, strict=True):
            np.testing.assert_array_equal(one, np.sort(other, axis=1))
    np.testing.assert_array_equal(ours.all_ordered, np.sort(np.concatenate(ours.values, axis=1), axis=1))
