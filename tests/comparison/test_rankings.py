"""Agreement of rankings, held against its definition summed term by term."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.comparison.rankings import rank_biased_overlap


def by_definition(first: list[int], second: list[int], p: float) -> float:
    """Equation 32, with sets at each depth."""
    depth = len(first)
    shared = [len({*first[:d]} & {*second[:d]}) for d in range(1, depth + 1)]
    body = sum(shared[d - 1] / d * p**d for d in range(1, depth + 1))
    return shared[-1] / depth * p**depth + (1 - p) / p * body


@given(st.integers(1, 30), st.integers(0, 10), st.floats(0.05, 0.99), st.randoms(use_true_random=False))
def test_it_is_the_sum_of_its_definition(depth: int, more: int, p: float, random: Random) -> None:
    pool = list(range(depth + more))
    first, second = (random.sample(pool, depth) for _ in range(2))
    found = rank_biased_overlap(np.array(first), np.array(second), p)
    assert found == pytest.approx(by_definition(first, second, p), abs=1e-12)


def test_equal_rankings_agree_wholly_and_disjoint_ones_not_at_all() -> None:
    order = np.arange(50)
    assert rank_biased_overlap(order, order) == pytest.approx(1.0, abs=1e-12)
    assert rank_biased_overlap(order, order + 50) == 0.0


def test_the_top_weighs_more() -> None:
    order = np.arange(100)
    top, bottom = order.copy(), order.copy()
    top[[0, 50]], bottom[[49, 99]] = top[[50, 0]], bottom[[99, 49]]
    assert rank_biased_overlap(order, top) < rank_biased_overlap(order, bottom)


def test_rankings_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        rank_biased_overlap(np.arange(3), np.arange(4))
