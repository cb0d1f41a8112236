"""The controls: each differs from its method in one thing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import Config
from neuronlens.errors import UserError
from neuronlens.ranges.controls import _PLACES, _carried, _placed, other_concept, random_neurons, random_ranges
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.selection import fit_ranges, method_label
from neuronlens.ranges.statistics import fit_statistics
from tests.ranges.sample import (
    CONCEPTS,
    DOSES,
    GATES,
    KINDS,
    SITE,
    inside,
    of_values,
    quantile_share,
    recount,
    same,
    statistics,
    total,
)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_random_neurons_are_as_many_with_ranges_as_wide_in_their_own_deviations(kind, gate):
    ours = statistics(neurons=40, per=60, constant=())
    gate = "none" if kind == "full" else gate
    ranked = fit_ranges(ours, "b", saliency="d_prime", top=0.3, kind=kind, tau=2.0, gate=gate)
    control = random_neurons(ours, ranked)
    assert len(control.neurons) == len(ranked.neurons) == 12
    np.testing.assert_array_equal(control.neurons, top_set(ours.saliency("random", "b"), 0.3))
    assert set(control.neurons) != set(ranked.neurons)
    assert (control.saliency, control.kind, control.base, control.gate) == (
        *("random", "random_neurons", ranked.label),
        ranked.gate,
    )
    assert (control.tau, control.threshold, control.top) == (ranked.tau, ranked.threshold, ranked.top)
    if kind == "quantile":  # as many of the concept's rows, whatever their shape
        np.testing.assert_allclose(
            inside(ours.values[1][control.neurons], control.lower, control.upper).mean(axis=1),
            quantile_share(2.0),
            atol=2 / 40,
        )
    elif kind == "full":
        assert np.isinf(control.lower).all()
    else:
        standard = [
            ((edge - part.mean[:, None]) / part.std[:, None])
            for part in (ranked, control)
            for edge in (part.lower, part.upper)
        ]
        np.testing.assert_allclose(standard[0], standard[2], atol=1e-5)
        np.testing.assert_allclose(standard[1], standard[3], atol=1e-5)
    for name, share in zip(DOSES, recount(ours, "b", control), strict=True):
        np.testing.assert_allclose(getattr(control, name), share, atol=1e-12, err_msg=name)
    if gate == "agreement":
        alone = fit_ranges(ours, "b", saliency="random", top=0.3, kind=kind, tau=2.0, gate=gate)
        assert control.agreement.inside.shape == (2, 12)
        if kind != "discriminative":
            assert same(control.agreement, alone.agreement), "a gate of its own, fitted on its own neurons"


def test_random_neurons_depend_on_the_seed_and_not_on_the_ranking():
    one, other = statistics(neurons=40), statistics(neurons=40, draws=1)
    chosen = [
        random_neurons(ours, fit_ranges(ours, "b", saliency=saliency, top=0.3)).neurons.tolist()
        for ours, saliency in ((one, "d_prime"), (one, "mean_abs"), (other, "d_prime"))
    ]
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) != set(chosen[2])


def test_an_interval_that_holds_nothing_stays_one_on_other_neurons():
    """Neuron 0 has two intervals, so neuron 1, which needs one, has an empty one besides."""
    generator = np.random.default_rng(0)
    concept = np.repeat(CONCEPTS, 200)
    values = generator.normal(size=(10, 600))
    values[0, concept == "a"] = 4 * generator.choice([-1, 1], 200) + 0.3 * generator.normal(size=200)
    values[1, concept == "a"] += 3
    ours = fit_statistics(of_values(values, concept), SITE)
    ranked = fit_ranges(ours, "a", saliency="separation", top=0.2, kind="discriminative", threshold=2.0)
    empty = np.isinf(ranked.lower)
    assert empty.any()
    control = random_neurons(ours, ranked)
    np.testing.assert_array_equal(np.isinf(control.lower), empty)
    assert (control.lower[empty] == np.inf).all()
    assert (control.upper[empty] == -np.inf).all()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", ["gaussian", "quantile", "discriminative"])
def test_random_ranges_have_the_same_neurons_and_dose_at_other_places(kind, gate):
    ours = statistics(per=60, constant=())
    ranked = fit_ranges(ours, "b", top=1.0, kind=kind, tau=1.0, gate=gate)
    control = random_ranges(ours, ranked)
    np.testing.assert_array_equal(control.neurons, ranked.neurons)
    rows = sum(part.shape[1] for part in ours.values)
    np.testing.assert_allclose(total(ours, control), total(ours, ranked), atol=1 / rows)
    assert (control.saliency, control.kind, control.base) == (ranked.saliency, "random_ranges", ranked.label)
    assert (control.gate, control.agreement) == ("none", None)
    assert control.lower.shape == (12, 1)
    moved = np.abs(control.lower[:, 0] - ranked.lower[:, 0]) > 0.05 * ranked.std
    assert moved.sum() >= 9
    for name, share in zip(DOSES, recount(ours, "b", control), strict=True):
        np.testing.assert_allclose(getattr(control, name), share, atol=1e-12, err_msg=name)


def test_random_ranges_draw_lots_of_their_own_for_concept_and_method_and_not_for_the_list_it_stands_in():
    """Of 200 neurons that are alike, so that the same lots would fall on the same places."""
    own = np.random.default_rng(0).normal(size=(200, 60))
    ours = fit_statistics(of_values(np.tile(own, (1, 3)), np.repeat(CONCEPTS, 60)), SITE)

    def places(concept, **how):
        found = random_ranges(ours, fit_ranges(ours, concept, top=1.0, tau=1.0, **how))
        return found.lower[np.argsort(found.neurons)]

    plain = places("a")
    np.testing.assert_array_equal(plain, places("a", role="tuned"))
    assert np.mean(plain == places("b")) < 0.5
    assert np.mean(plain == places("a", kind="quantile")) < 0.5
    assert np.mean(plain == places("a", saliency="mean_abs")) < 0.5


def test_lots_are_the_same_in_every_release():
    ours = statistics(per=60, constant=())
    found = random_ranges(ours, fit_ranges(ours, "b", top=0.3, tau=1.0))
    np.testing.assert_allclose(found.lower[:, 0], [-1.4951209, -0.6120805, 0.3345767], rtol=1e-6)


@pytest.mark.parametrize("held", [0, 1, 2])
def test_random_ranges_hold_as_many_rows_however_few(held):
    """And any place is reached, the last one, too."""
    rows = 9
    ordered = np.tile(np.arange(rows, dtype=np.float64), (4000, 1))
    lower, upper = _placed(ordered, np.arange(len(ordered)), np.full(len(ordered), held), np.random.default_rng(0))
    inside_ = ((ordered >= lower[:, None]) & (ordered <= upper[:, None])).sum(axis=1)
    assert set(inside_) == {held}
    if held:
        assert set(lower) == {float(i) for i in range(rows - held + 1)}


def test_random_ranges_need_rows_and_say_for_what():
    ours = dataclasses.replace(statistics(), distributions=(None,))
    with pytest.raises(UserError, match="the control random_ranges needs the activations of single rows"):
        random_ranges(ours, fit_ranges(statistics(), "a", top=0.5))


def test_a_neuron_without_spread_carries_its_edges_as_they_stand():
    """Where the concept is constant an edge is carried as so many units, not as infinitely many deviations."""
    ranked = fit_ranges(statistics(neurons=12), "a", top=1.0, kind="discriminative", threshold=1.0)
    at = list(ranked.neurons).index(4)
    assert ranked.std[at] == 0
    edge = np.full((12, 1), 0.35, dtype=np.float32)
    carried = _carried(edge, ranked, np.full(12, 2.0), np.full(12, 3.0))
    assert carried[at, 0] == pytest.approx((0.35 - ranked.mean[at]) * 3 + 2, rel=1e-6)


def test_random_ranges_are_drawn_from_the_whole_of_a_neuron():
    """Over many neurons every place is as likely, wherever the concept's rows are."""
    generator = np.random.default_rng(0)
    concept = np.repeat(CONCEPTS, 50)
    values = generator.normal(size=(400, 150)) + 3 * (concept == "a")
    ours = fit_statistics(of_values(values, concept), SITE)
    ranked = fit_ranges(ours, "a", top=1.0, tau=1.0)
    control = random_ranges(ours, ranked)
    assert ranked.dose_target.mean() > 3 * ranked.dose_complement.mean()
    # ranks of the lower bounds, of which there are n (1 - dose) + 1
    rows = np.concatenate(ours.values, axis=1)[ranked.neurons]
    place = (rows < control.lower).mean(axis=1) / (1 - total(ours, ranked))
    assert scipy.stats.kstest(place, "uniform").pvalue > 0.01


@pytest.mark.parametrize("kind", ["rectified", "bfloat16", "rounded"])
def test_where_rows_share_values_the_dose_is_met_all_the_same(kind):
    """The control of a range that is out of reach of a spike must not fall on the spike, which holds half of all rows."""
    generator = np.random.default_rng(0)
    concept = np.repeat(CONCEPTS, 200)
    values = generator.normal(size=(50, 600)) + 1.5 * (concept == "a")
    values = {
        "rectified": np.maximum(values - 0.5, 0),
        "bfloat16": torch.from_numpy(values).to(torch.bfloat16).float().numpy(),
        "rounded": np.round(values, 1),
    }[kind]
    ours = fit_statistics(of_values(values, concept), SITE)
    ranked = fit_ranges(ours, "a", top=1.0, tau=0.7)
    off = np.abs(total(ours, random_ranges(ours, ranked)) - total(ours, ranked)) * 600
    assert off.max() < (3.5 if kind == "rounded" else 0.5)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 99))
def test_a_place_is_the_first_drawn_that_holds_as_few_rows_more_as_any(values, count, seed):
    """Looked at place by place: a place is a row drawn, and as many that follow it in order."""
    ordered = np.sort(np.array([values, np.arange(len(values)), np.negative(values)], dtype=np.float32), axis=1)
    held = min(count, len(values))
    (low, high), draw = (
        _placed(ordered, np.array([2, 0]), np.array([held, held]), np.random.default_rng(seed)),
        np.random.default_rng(seed),
    )
    for row, own, lots in zip(ordered[[2, 0]], zip(low, high, strict=True), draw.random((2, _PLACES)), strict=True):
        if not held:
            assert own == (np.inf, -np.inf)
            continue
        starts = [int(lot * (len(row) - held + 1)) for lot in lots]
        places = [(row[start], row[start + held - 1]) for start in starts]
        assert own == min(places, key=lambda ends: sum(ends[0] <= value <= ends[1] for value in row))


def test_a_range_that_holds_nothing_has_a_control_that_holds_nothing():
    own = np.random.default_rng(0).normal(size=(4, 40))
    ours = fit_statistics(of_values(np.tile(own, (1, 3)), np.repeat(CONCEPTS, 40)), SITE)
    ranked = fit_ranges(ours, "a", top=1.0, kind="discriminative", threshold=4.0)
    assert (ranked.dose_target == 0).all()
    control = random_ranges(ours, ranked)
    assert (control.lower > control.upper).all()
    assert (control.dose_target == 0).all()


@pytest.mark.parametrize("gate", GATES)
def test_another_concepts_ranges_are_its_very_numbers(gate):
    """Each concept gets those of the next in the alphabet, the last those of the first; none its own, all of them once."""
    ours = statistics()
    known = {}
    for name in CONCEPTS:
        found = fit_ranges(ours, name, top=0.5, gate=gate)
        known[name] = found
    config = Config.model_validate(
        {
            "fit": {"saliency": ["d_prime"]},
            "interventions": {
                "controls": ["other_concept"],
                "tuned": {"ranges": "gaussian", "tau": 2.5, "top": 0.5, "gate": gate, "saliency": "d_prime"},
            },
        }
    )
    found = [part for part in sweep_ranges(ours, config) if part.kind == "other_concept" and part.role == "tuned"]
    assert [part.concept for part in found] == list(CONCEPTS)
    for part, name in zip(found, ("b", "c", "a"), strict=True):
        theirs = known[name]
        assert (part.kind, part.base, part.saliency, part.gate) == ("other_concept", theirs.label, "d_prime", gate)
        for field in ("neurons", "lower", "upper", "mean", "std", "complement_mean", "complement_std", "pooled_mean"):
            np.testing.assert_array_equal(getattr(part, field), getattr(theirs, field))
        assert same(part.agreement, theirs.agreement)
        assert np.isnan(part.dose_target).all()
        assert np.isnan(part.dose_complement).all()
        assert np.isnan(part.dose_ordinary).all()


def test_where_all_neurons_are_edited_there_are_no_others_to_draw():
    asked = {"interventions": {"top": [0.5, 1.0], "tau": [2.0], "tuned": None}}
    kinds = {(part.kind, part.top) for part in sweep_ranges(statistics(), Config.model_validate(asked))}
    assert ("random_neurons", 0.5) in kinds
    assert ("random_neurons", 1.0) not in kinds
    assert ("random_ranges", 1.0) in kinds


def test_other_concept_is_a_derangement_of_any_number_of_concepts():
    ours = statistics()
    template = fit_ranges(ours, "a", top=0.5)
    for count in (2, 3, 7):
        names = [f"{i}" for i in range(count)]
        all_ = {name: dataclasses.replace(template, concept=name, mean=np.full(6, i)) for i, name in enumerate(names)}
        known = {(name, method_label(part)): part for name, part in all_.items()}
        donors = [int(other_concept(all_[name], names, known).mean[0]) for name in names]
        assert sorted(donors) == list(range(count))
        assert all(donor != i for i, donor in enumerate(donors))
