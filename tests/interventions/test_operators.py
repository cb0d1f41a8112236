"""Operators against values computed by hand, and decisions taken in float32 whatever the model's dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neuronlens.config import Config
from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.operators import DAMPEN_FACTOR, OPERATORS, Target, dampen, parse_operator
from neuronlens.sites import Site
from neuronlens.values import OPERATORS as CONFIGURABLE
from tests.interventions.edits import INF, of_neurons, target_of

NUMBERS = ("mean", "std", "complement_mean", "complement_std", "pooled_mean")
# the formula in float64, of a value and what stands in Target
FORMULAS = {
    "zero": lambda x, _: np.zeros_like(x),
    "mean": lambda x, of: np.broadcast_to(of["pooled_mean"], x.shape),
    "complement_mean": lambda x, of: np.broadcast_to(of["complement_mean"], x.shape),
    "dampen": lambda x, of: x * 0.125 * np.abs(2 * x - of["lower"] - of["upper"]) / (of["upper"] - of["lower"]),
    "dampen:0.7": lambda x, of: x * 0.7 * np.abs(2 * x - of["lower"] - of["upper"]) / (of["upper"] - of["lower"]),
    "scale:-0.3": lambda x, _: -0.3 * x,
    "clamp": lambda x, of: np.where(2 * x <= of["lower"] + of["upper"], of["lower"], of["upper"]),
    "transport": lambda x, of: of["complement_mean"] + (x - of["mean"]) * of["complement_std"] / of["std"],
    "steer:-0.5": lambda x, of: x - 0.5 * (of["mean"] - of["complement_mean"]),
    "steer:-1": lambda x, of: x - (of["mean"] - of["complement_mean"]),
    "steer:2": lambda x, of: x + 2 * (of["mean"] - of["complement_mean"]),
}


def apply(values, lower, upper, operator="zero", dtype=torch.float32, **numbers):
    """An edit of a single neuron on a row of values."""
    item = of_neurons(Site(0, "resid_post"), torch.tensor([0]), lower, upper, operator=operator, **numbers)
    hidden = torch.tensor(values, dtype=dtype)[None, :, None]
    edited, inside = item.apply(hidden, torch.ones(1, len(values), dtype=torch.bool))
    assert edited.dtype == dtype
    assert edited.shape == hidden.shape
    return edited[0, :, 0], inside[0, :, 0]


def numbers_of(seed, neurons):
    """Bounds [K, 1] and what operators look at, [K] each; drawn."""
    generator = np.random.default_rng(seed)
    lower = generator.normal(size=neurons)
    drawn = {name: generator.normal(size=neurons) for name in NUMBERS}
    drawn |= {name: np.abs(drawn[name]) + 0.1 for name in ("std", "complement_std")}
    found = {"lower": lower, "upper": lower + generator.uniform(0.1, 3, neurons)} | drawn
    return {name: number.astype(np.float32) for name, number in found.items()}


def formula(text, values, numbers):
    """What an operator makes of values, by hand."""
    return FORMULAS[text](values.astype(np.float64), {name: part.astype(np.float64) for name, part in numbers.items()})


def test_what_is_configurable_is_what_exists():
    assert set(CONFIGURABLE) == set(OPERATORS) == {text.partition(":")[0] for text in FORMULAS}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(sorted(FORMULAS)))
def test_each_operator_is_its_formula_elementwise_and_never_in_place(seed, neurons, text):
    numbers = numbers_of(seed, neurons)
    values = (
        np.random.default_rng(seed + 1).uniform(numbers["lower"], numbers["upper"], (3, 4, neurons)).astype(np.float32)
    )
    name, number = parse_operator(text)
    target = Target(**{key: torch.from_numpy(value.copy()) for key, value in numbers.items()})
    given_values = torch.from_numpy(values.copy())
    found = OPERATORS[name](given_values, target, number)
    expected = formula(text, values, numbers)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    assert found.shape == values.shape
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(given_values, values)
    for key, value in numbers.items():
        np.testing.assert_array_equal(getattr(target, key), value)
    one = OPERATORS[name](given_values[1:2, 2:3], target, number)
    np.testing.assert_array_equal(one, found[1:2, 2:3])


@pytest.mark.parametrize("text", sorted(FORMULAS))
def test_an_edit_applies_the_operator_in_range_and_nothing_elsewhere(text):
    """Every neuron with numbers of its own; out of range the bits stay."""
    numbers = numbers_of(0, 6)
    values = np.random.default_rng(1).normal(0, 2, (5, 7, 6)).astype(np.float32)
    tensors = {name: torch.from_numpy(number) for name, number in numbers.items()}
    bounds = tensors["lower"][:, None], tensors["upper"][:, None]
    item = Intervention(Site(0, "resid_post"), torch.arange(6), *bounds, Target(**tensors), text)
    edited, inside = item.apply(torch.from_numpy(values), torch.ones(5, 7, dtype=torch.bool))
    within = (values >= numbers["lower"]) & (values <= numbers["upper"])
    np.testing.assert_array_equal(inside, within)
    assert within.any()
    assert not within.all()
    expected = formula(text, values, numbers)
    np.testing.assert_allclose(edited[inside], expected[within], rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(edited[~inside], values[~within])


def test_zero_within_closed_bounds():
    edited, inside = apply([0.99, 1.0, 2.0, 3.0, 3.01], 1.0, 3.0)
    assert edited.tolist() == pytest.approx([0.99, 0.0, 0.0, 0.0, 3.01])
    assert inside.tolist() == [False, True, True, True, False]


def test_complement_mean_within_the_range():
    assert apply([1.5, 4.0], 1.0, 3.0, "complement_mean", complement_mean=-7.0)[0].tolist() == [-7.0, 4.0]


def test_dampen_is_nothing_at_the_centre_and_the_factor_at_the_edge():
    edited, _ = apply([2.0, 1.0, 3.0, 2.5, 3.5], 1.0, 3.0, "dampen:0.5")
    assert edited.tolist() == pytest.approx([0.0, 0.5 * 1.0, 0.5 * 3.0, 0.5 * 2.5 * 0.5, 3.5])
    assert apply([3.0], 1.0, 3.0, "dampen")[0].tolist() == [3.0 * DAMPEN_FACTOR]


@pytest.mark.parametrize(("lower", "upper"), [(-INF, INF), (0.0, INF), (-INF, 9.0), (5.0, 5.0)])
@pytest.mark.parametrize("operator", sorted(FORMULAS))
def test_every_operator_is_finite_on_every_kind_of_range(lower, upper, operator):
    """The reference's soft mask is inf - inf on a whole neuron. What has no nearest bound stays where it is."""
    edited, inside = apply(
        [5.0], lower, upper, operator, mean=1.0, std=2.0, complement_mean=-3.0, complement_std=4.0, pooled_mean=7.0
    )
    assert inside.tolist() == [True]
    clamped = {(-INF, INF): 5.0, (0.0, INF): 0.0, (-INF, 9.0): 9.0, (5.0, 5.0): 5.0}[lower, upper]
    expected = {"zero": 0.0, "mean": 7.0, "complement_mean": -3.0, "dampen": 0.0, "dampen:0.7": 0.0, "clamp": clamped}
    expected |= {"scale:-0.3": -1.5, "transport": 5.0, "steer:-0.5": 3.0, "steer:-1": 1.0, "steer:2": 13.0}
    assert edited.tolist() == pytest.approx([expected[operator]])


def test_transport_of_a_constant_neuron_is_the_others_mean():
    numbers = {"mean": 2.0, "std": 0.0, "complement_mean": -1.0, "complement_std": 3.0}
    assert apply([2.0], 2.0, 2.0, "transport", **numbers)[0].tolist() == [-1.0]
    assert apply([2.5, 4.0], 0.0, 3.0, "transport", **numbers)[0].tolist() == [-1.0, 4.0], "wherever its range ends"


def moments(values):
    """Mean and std of rows [N]."""
    exact = values.double().numpy()
    return exact.mean(), exact.std()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0.1, 5), st.floats(-5, 5), st.floats(0, 5))
def test_transport_carries_one_gaussian_onto_the_other(seed, mean, std, rest_mean, rest_std):
    values = torch.from_numpy(np.random.default_rng(seed).normal(mean, std, 200).astype(np.float32))
    own, own_std = moments(values)
    numbers = {"mean": own, "std": own_std, "complement_mean": rest_mean, "complement_std": rest_std}
    edited, _ = apply(values.tolist(), -INF, INF, "transport", **numbers)
    assert moments(edited) == pytest.approx((rest_mean, rest_std), abs=1e-4)
    order = torch.argsort(values)
    assert (edited[order].diff() >= -1e-4).all(), "what was larger stays larger"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0.1, 5), st.floats(-5, 5))
def test_steering_by_minus_one_carries_the_mean_over_and_keeps_the_spread(seed, mean, std, rest_mean):
    values = torch.from_numpy(np.random.default_rng(seed).normal(mean, std, 200).astype(np.float32))
    own, own_std = moments(values)
    numbers = {"mean": own, "complement_mean": rest_mean}
    for alpha, expected in ((-1, rest_mean), (-2, 2 * rest_mean - own), (0, own)):
        edited, _ = apply(values.tolist(), -INF, INF, f"steer:{alpha}", **numbers)
        assert moments(edited) == pytest.approx((expected, own_std), abs=1e-4)


@settings(deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(0.125, 1e3, width=32), st.floats(0, 1))
def test_clamping_goes_to_the_nearest_bound(lower, width, place):
    lower, upper = np.float32(lower), np.float32(lower) + np.float32(width)
    value = np.clip(np.float32(lower + place * width), lower, upper)
    edited, inside = apply([float(value)], float(lower), float(upper), "clamp")
    assert inside.tolist() == [True]
    expected = lower if float(value) - float(lower) <= float(upper) - float(value) else upper
    near_the_middle = abs(2 * float(value) - float(lower) - float(upper)) < 1e-3
    assert edited[0].item() in ((float(lower), float(upper)) if near_the_middle else (float(expected),))


def test_clamping_the_middle_goes_down():
    assert apply([2.0, 1.5, 2.5], 1.0, 3.0, "clamp")[0].tolist() == [1.0, 1.0, 3.0]


@settings(deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(0.125, 1e3, width=32), st.floats(0, 1), st.floats(-1, 1))
def test_dampening_never_enlarges(centre, half_width, factor, place):
    values = torch.tensor([centre + place * half_width])
    target = target_of(torch.tensor([[centre - half_width]]), torch.tensor([[centre + half_width]]))
    assert dampen(values, target, factor).abs() <= values.abs() * factor * 1.001 + 1e-4


def test_an_empty_range_changes_nothing():
    edited, inside = apply([-1.0, 0.0, INF], INF, -INF, "dampen")
    assert edited.tolist() == [-1.0, 0.0, INF]
    assert not inside.any()


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("dampen:1", [0.0, 1.0, 5.0, 0.0, 12.0]),
        ("clamp", [0.0, 1.0, 5.0, 10.0, 12.0]),
        ("zero", [0.0, 0.0, 5.0, 0.0, 0.0]),
    ],
)
def test_several_intervals_of_one_neuron(operator, expected):
    """Each with a centre and bounds of its own."""
    lower, upper = torch.tensor([[0.0, 10.0, INF]]), torch.tensor([[1.0, 12.0, -INF]])
    item = of_neurons(Site(0, "resid_post"), torch.tensor([1]), lower, upper, operator=operator)
    hidden = torch.tensor([[[9.0, value] for value in (0.0, 1.0, 5.0, 11.0, 12.0)]])
    edited, inside = item.apply(hidden, torch.ones(1, 5, dtype=torch.bool))
    assert inside[0, :, 0].tolist() == [True, True, False, True, True]
    assert edited[0, :, 1].tolist() == expected
    assert edited[0, :, 0].tolist() == [9.0] * 5


@pytest.mark.parametrize("operator", sorted(FORMULAS))
def test_edits_are_never_in_place(operator):
    hidden = torch.ones(1, 2, 3)
    item = of_neurons(
        Site(0, "resid_post"), torch.tensor([0, 2]), -INF, INF, operator=operator, complement_mean=2.0, mean=-1.0
    )
    edited, _ = item.apply(hidden, torch.tensor([[True, False]]))
    assert torch.equal(hidden, torch.ones(1, 2, 3))
    assert torch.equal(edited[0, 1], torch.ones(3))
    assert edited[0, 0, 1] == 1.0
    assert edited is not hidden


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


@pytest.mark.parametrize("operator", sorted(FORMULAS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_outside_keeps_its_bits_in_every_dtype(dtype, operator):
    values = [50.25, -3.140625, 0.0001, 70.0]
    edited, inside = apply(values, 60.0, 80.0, operator, dtype, complement_mean=1.0)
    assert inside.tolist() == [False, False, False, True]
    assert torch.equal(edited[:3], torch.tensor(values[:3], dtype=dtype))


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        *((name, name, DAMPEN_FACTOR) for name in sorted(OPERATORS)),
        *(("dampen:0.5", "dampen", 0.5), ("scale:2", "scale", 2.0), ("scale:.5", "scale", 0.5)),
        *(("steer:-1", "steer", -1.0), ("steer:-0.25", "steer", -0.25)),
    ],
)
def test_an_operators_name_and_number(text, name, number):
    assert parse_operator(text) == (name, number)


def configured(text):
    return Config.model_validate({"interventions": {"operators": [text]}}).interventions.operators


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_configuration_accepts_exactly_what_an_operator_needs(name):
    """An operator takes a number iff its result depends on one, and may go without iff it has one of its own."""
    target = Target(**{key: torch.from_numpy(value) for key, value in numbers_of(0, 3).items()})
    values = torch.tensor([[0.3, -0.2, 1.1]])
    depends = not torch.equal(*(OPERATORS[name](values, target, number) for number in (0.125, 0.75)))
    optional = name == "dampen"  # which only makes less of a value, so that its number has no sign
    allowed = {name: not depends or optional, f"{name}:0.5": depends, f"{name}:-1": depends and not optional}
    allowed |= dict.fromkeys(
        [f"{name}:", f"{name}:much", f"{name}:nan", f"{name}:1:2", f" {name}", f"{name}:1e400"], False
    )
    for text, accepted in allowed.items():
        if accepted:
            assert configured(text) == (text,)
        else:
            with pytest.raises(ValidationError):
                configured(text)
