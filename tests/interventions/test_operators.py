"""Operators against values computed by hand, and decisions taken in float32 whatever the model's dtype."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import OPERATORS as CONFIGURABLE
from neuronlens.interventions.edit import Intervention
from neuronlens.interventions.operators import DAMPEN_FACTOR, OPERATORS, Target, dampen, parse_operator
from neuronlens.sites import Site

INF = math.inf


def apply(values, lower, upper, operator="zero", replacement=0.0, dtype=torch.float32):
    """An edit of a single neuron on a row of values."""
    bounds = (torch.tensor([[bound]], dtype=torch.float32) for bound in (lower, upper))
    item = Intervention(Site(0, "resid_post"), torch.tensor([0]), *bounds, operator, torch.tensor([replacement]))
    hidden = torch.tensor(values, dtype=dtype)[None, :, None]
    edited, inside = item.apply(hidden, torch.ones(1, len(values), dtype=torch.bool))
    assert edited.dtype == dtype
    assert edited.shape == hidden.shape
    return edited[0, :, 0], inside[0, :, 0]


def test_what_is_configurable_is_what_exists():
    assert set(CONFIGURABLE) == set(OPERATORS)


def test_zero_within_closed_bounds():
    edited, inside = apply([0.99, 1.0, 2.0, 3.0, 3.01], 1.0, 3.0)
    assert edited.tolist() == pytest.approx([0.99, 0.0, 0.0, 0.0, 3.01])
    assert inside.tolist() == [False, True, True, True, False]


def test_complement_mean_within_the_range():
    assert apply([1.5, 4.0], 1.0, 3.0, "complement_mean", -7.0)[0].tolist() == [-7.0, 4.0]


def test_dampen_is_nothing_at_the_centre_and_the_factor_at_the_edge():
    edited, _ = apply([2.0, 1.0, 3.0, 2.5, 3.5], 1.0, 3.0, "dampen:0.5")
    assert edited.tolist() == pytest.approx([0.0, 0.5 * 1.0, 0.5 * 3.0, 0.5 * 2.5 * 0.5, 3.5])
    assert apply([3.0], 1.0, 3.0, "dampen")[0].tolist() == [3.0 * DAMPEN_FACTOR]


@pytest.mark.parametrize(("lower", "upper"), [(-INF, INF), (0.0, INF), (-INF, 9.0), (5.0, 5.0)])
@pytest.mark.parametrize("operator", ["zero", "complement_mean", "dampen"])
def test_every_operator_is_finite_on_every_kind_of_range(lower, upper, operator):
    """The reference's soft mask is inf - inf on a whole neuron."""
    edited, inside = apply([5.0], lower, upper, operator, 2.0)
    assert inside.tolist() == [True]
    assert edited.tolist() == [{"zero": 0.0, "complement_mean": 2.0, "dampen": 0.0}[operator]]


@settings(deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(0.125, 1e3, width=32), st.floats(0, 1), st.floats(-1, 1))
def test_dampening_never_enlarges(centre, half_width, factor, place):
    values = torch.tensor([centre + place * half_width])
    target = Target(torch.tensor([centre]), torch.tensor([half_width]), torch.zeros(1), factor)
    assert dampen(values, target).abs() <= values.abs() * factor * 1.001 + 1e-6


def test_an_empty_range_changes_nothing():
    edited, inside = apply([-1.0, 0.0, INF], INF, -INF, "dampen")
    assert edited.tolist() == [-1.0, 0.0, INF]
    assert not inside.any()


def test_several_intervals_of_one_neuron():
    item = Intervention(
        Site(0, "resid_post"), torch.tensor([1]), torch.tensor([[0.0, 10.0]]), torch.tensor([[1.0, 12.0]]), "dampen:1"
    )
    hidden = torch.tensor([[[9.0, value] for value in (0.0, 1.0, 5.0, 11.0, 12.0)]])
    edited, inside = item.apply(hidden, torch.ones(1, 5, dtype=torch.bool))
    assert inside[0, :, 0].tolist() == [True, True, False, True, True]
    assert edited[0, :, 1].tolist() == [0.0, 1.0, 5.0, 0.0, 12.0]
    assert edited[0, :, 0].tolist() == [9.0] * 5


def test_edits_are_never_in_place():
    hidden = torch.ones(1, 2, 3)
    item = Intervention(Site(0, "resid_post"), torch.tensor([0, 2]), -torch.ones(2, 1) * INF, torch.ones(2, 1) * INF)
    edited, _ = item.apply(hidden, torch.tensor([[True, False]]))
    assert torch.equal(hidden, torch.ones(1, 2, 3))
    assert edited[0].tolist() == [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("value", "lower", "inside"), [(50.0, 50.05, False), (50.25, 50.2, True), (0.513671875, 0.5135, True)]
)
def test_bfloat16_activations_meet_float32_bounds(value, lower, inside):
    """Where bfloat16 has steps of 0.25, a bound of 50.05 rounded to it would be 50.0 and let 50.0 in."""
    bound = torch.tensor(lower)
    found = apply([value], lower, INF, dtype=torch.bfloat16)[1].tolist()
    assert found == [inside]
    if not inside:
        assert torch.tensor(value, dtype=torch.bfloat16) >= bound.to(torch.bfloat16)


@pytest.mark.parametrize("operator", ["zero", "complement_mean", "dampen"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_outside_keeps_its_bits_in_every_dtype(dtype, operator):
    values = [50.25, -3.140625, 0.0001, 70.0]
    edited, inside = apply(values, 60.0, 80.0, operator, 1.0, dtype)
    assert inside.tolist() == [False, False, False, True]
    assert torch.equal(edited[:3], torch.tensor(values[:3], dtype=dtype))


@pytest.mark.parametrize(("text", "expected"), [("zero", "zero"), ("dampen", "dampen"), ("dampen:0.5", "dampen")])
def test_an_operators_name_and_factor(text, expected):
    assert parse_operator(text) == (expected, 0.5 if ":" in text else DAMPEN_FACTOR)
