"""An edit's logits are had from those under the edit that is nearest to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.evaluation.parents import depth_first, parents

TOKENS, WIDTH = 40, 32


def edits(*touched):
    """Edits that set what they touch to zero."""
    hidden = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    places = [torch.arange(TOKENS)] * len(touched)
    return places, [hidden.masked_fill(part, 0) for part in touched], list(touched)


def neurons(*places):
    touched = torch.zeros(TOKENS, WIDTH, dtype=torch.bool)
    touched[:, list(places)] = True
    return touched


def ranged(whole, seed=0):
    """All but a few of the entries."""
    kept = torch.rand(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)) < 0.03
    return whole & ~kept


def test_a_range_follows_from_its_whole_neurons_whichever_is_given_first():
    one, other = neurons(*range(10)), neurons(*range(20, 30))
    assert parents(*edits(ranged(one), one, other, ranged(other))) == [1, None, None, 2]


def test_edits_that_share_most_neurons_follow_from_each_other():
    assert parents(*edits(neurons(*range(12)), neurons(*range(1, 12)), neurons(*range(20, 23)))) == [None, 0, None]


def test_edits_of_other_tokens_are_not_compared():
    places, hidden, touched = edits(neurons(*range(10)), neurons(*range(10)))
    assert parents(places, hidden, touched) == [None, 0]
    assert parents([places[0], places[1] + 1], hidden, touched) == [None, None]
    assert parents([places[0], places[1][:0]], [hidden[0], hidden[1][:0]], [touched[0], touched[1][:0]]) == [None, None]
    assert parents([], [], []) == []


@pytest.mark.parametrize("count", [2, 6])
def test_the_way_back_to_the_unedited_logits_is_short(count):
    found = parents(*edits(*(neurons(*range(20 - i)) for i in range(count))))
    for i in range(count):
        steps, at = 1, found[i]
        while at is not None:
            steps, at = steps + 1, found[at]
        assert steps <= 3


@given(st.lists(st.integers(0, 20), max_size=12))
def test_depth_first_has_every_edit_behind_its_parent_and_its_kin_together(numbers):
    given = [None if number >= i else number for i, number in enumerate(numbers)]
    order = depth_first(given)
    assert sorted(order) == list(range(len(given)))
    path = []
    for i in order:
        while path and path[-1] != given[i]:
            path.pop()
        assert (path[-1] if path else None) == given[i]
        path.append(i)
