"""The fit: ranges that hold what they promise, controls that differ in one thing, doses counted by hand, a table that comes back."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch

from neuronlens.artifact import write_table
from neuronlens.config import Config
from neuronlens.ranges import fit as module
from neuronlens.ranges.discriminative import discriminative_bounds
from neuronlens.ranges.fit import (
    fit_ranges,
    other_concept,
    random_neurons,
    random_ranges,
    ranges_table,
    read_ranges,
    sweep_ranges,
)
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.statistics import fit_statistics
from tests.ranges.sample import CONCEPTS, SITE, activations, inside, members, of_values, others, statistics, tokens

KINDS = ("gaussian", "quantile", "discriminative", "full")
GATES = ("none", "agreement")
PARTS = ("dose_target", "dose_complement", "dose_ordinary")


def parts_of(ours, concept):
    """The three groups of tokens that doses are shares of."""
    return ours.values[ours.index(concept)], ours.complement(concept), ours.ordinary.without(concept)


def recount(ours, concept, found):
    """[K] doses on target, complement and ordinary tokens, one value at a time."""
    shares = []
    for part in parts_of(ours, concept):
        within = inside(part[found.neurons], found.lower, found.upper)
        if found.agreement is not None:
            within &= found.agreement.passes(within)
        shares.append(within.mean(axis=1))
    return shares


def total(ours, found):
    """[K] share of all fit rows that a set of ranges edits, from its doses."""
    own, rest = (part.shape[1] for part in parts_of(ours, found.concept)[:2])
    return (found.dose_target * own + found.dose_complement * rest) / (own + rest)


def same(one, two):
    """Two values of a dataclass, field by field; NaN equals NaN."""
    if dataclasses.is_dataclass(one):
        return type(one) is type(two) and all(
            same(getattr(one, field.name), getattr(two, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return one == two


@pytest.mark.parametrize("kind", KINDS)
def test_the_top_neurons_of_a_ranking_are_taken(kind):
    ours = statistics()
    for saliency, top in product(("mean_abs", "d_prime", "separation", "random"), (0.1, 0.5)):
        found = fit_ranges(ours, "b", saliency=saliency, top=top, kind=kind)
        np.testing.assert_array_equal(found.neurons, top_set(ours.saliency(saliency, "b"), top))
        assert (found.concept, found.saliency, found.top, found.kind, found.base) == ("b", saliency, top, kind, kind)
        assert (found.gate, found.role, found.label) == ("none", "sweep", kind)


def test_gaussian_bounds_are_mean_and_tau_stds():
    found = activations()
    ranges = fit_ranges(fit_statistics(found, SITE), "b", saliency="mean_abs", top=0.5, tau=1.5)
    own = members(found, "b").astype(np.float64)
    expected = own.mean(1)[ranges.neurons], own.std(1, ddof=0)[ranges.neurons]
    np.testing.assert_allclose(ranges.lower[:, 0], expected[0] - 1.5 * expected[1], rtol=1e-6)
    np.testing.assert_allclose(ranges.upper[:, 0], expected[0] + 1.5 * expected[1], rtol=1e-6)
    assert ranges.lower.dtype == ranges.upper.dtype == np.float32
    assert ranges.lower.shape == (6, 1)


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-7, 2001.7, 0.0])
def test_a_constant_neuron_lies_in_its_own_range_and_in_the_full_one(value):
    """Bounds are inclusive. The reference's infinity times zero is NaN and masks nothing."""
    found = activations(constant=())
    found.values[SITE][4] = value
    statistics = fit_statistics(found, SITE)
    for kind, tau in (("gaussian", 2.0), ("full", None)):
        ranges = fit_ranges(statistics, "a", top=1.0, kind=kind, tau=tau)
        at = ranges.neurons.tolist().index(4)
        assert ranges.lower[at, 0] <= np.float32(value) <= ranges.upper[at, 0]
        assert (ranges.dose_target[at], ranges.dose_complement[at]) == (1.0, 1.0)


def test_a_full_range_masks_everything_and_knows_no_tau():
    ranges = fit_ranges(fit_statistics(activations(), SITE), "c", top=0.5, kind="full", tau=2.0)
    assert ranges.tau is None
    assert (ranges.dose_target == 1).all()
    assert (ranges.dose_complement == 1).all()
    assert np.isneginf(ranges.lower).all()
    assert np.isposinf(ranges.upper).all()


def quantile_share(tau):
    """Share of a normal distribution within tau standard deviations."""
    return math.erf(tau / math.sqrt(2))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_quantile_ranges_hold_the_nominal_share_of_the_concept(tau):
    """Whatever the shape of its distribution; the Gaussian range does not, on skewed neurons."""
    generator = np.random.default_rng(0)
    values = np.exp(generator.normal(0, 1.5, (6, 1200)))
    ours = fit_statistics(of_values(values, np.repeat(CONCEPTS, 400)), SITE)
    found = fit_ranges(ours, "a", top=1.0, kind="quantile", tau=tau)
    np.testing.assert_allclose(found.dose_target, quantile_share(tau), atol=2 / 400)
    own = ours.values[0][found.neurons].astype(np.float64)
    share = quantile_share(tau)
    expected = np.quantile(own, [(1 - share) / 2, (1 + share) / 2], axis=1)
    np.testing.assert_allclose(np.stack([found.lower[:, 0], found.upper[:, 0]]), expected, rtol=1e-6)
    gaussian = fit_ranges(ours, "a", top=1.0, kind="gaussian", tau=tau)
    assert np.abs(gaussian.dose_target - share).max() > 2 * 2 / 400


def test_discriminative_ranges_avoid_complement_and_foreign_tokens():
    ours = statistics(per=60)
    for threshold in (1.0, 2.0):
        found = fit_ranges(ours, "c", top=0.7, kind="discriminative", threshold=threshold)
        bounds = discriminative_bounds(*(part[found.neurons] for part in parts_of(ours, "c")), threshold)
        np.testing.assert_array_equal(found.lower, bounds[0])
        np.testing.assert_array_equal(found.upper, bounds[1])
        assert (found.tau, found.threshold) == (None, threshold)


def test_what_has_no_effect_is_not_recorded():
    ours = statistics()
    recorded = {kind: fit_ranges(ours, "a", top=0.5, kind=kind, tau=2.0, threshold=3.0) for kind in KINDS}
    assert {kind: (found.tau, found.threshold) for kind, found in recorded.items()} == {
        "gaussian": (2.0, None),
        "quantile": (2.0, None),
        "discriminative": (None, 3.0),
        "full": (None, None),
    }


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_doses_are_shares_counted_one_by_one(kind, gate, concept):
    """With a gate, of what is in range and passes; tokens in rows of the concept are not held against it."""
    ours = statistics(per=40)
    for tau in (0.3, 1.0, 2.5):
        found = fit_ranges(ours, concept, top=0.7, kind=kind, tau=tau, gate=gate)
        assert (found.agreement is None) == (gate == "none")
        assert found.label == (kind if gate == "none" else f"{kind}+agreement")
        for name, share in zip(PARTS, recount(ours, concept, found), strict=True):
            np.testing.assert_allclose(getattr(found, name), share, atol=1e-12, err_msg=name)


def test_a_dose_on_tokens_nobody_read_is_not_known():
    found = fit_ranges(statistics(with_tokens=False), "a", top=0.5)
    assert np.isnan(found.dose_ordinary).all()
    assert not np.isnan(found.dose_complement).any()
    column = ranges_table([found])["dose_ordinary"]
    assert column.null_count == len(column)


def test_operators_get_the_numbers_of_the_fit_rows():
    found = activations()
    ours = fit_statistics(found, SITE, ordinary=tokens())
    ranges = fit_ranges(ours, "a", top=0.5)
    own, rest = (part(found, "a").astype(np.float64)[ranges.neurons] for part in (members, others))
    both = np.concatenate([own, rest], axis=1)
    expected = {
        "mean": own.mean(axis=1),
        "std": own.std(axis=1),
        "complement_mean": rest.mean(axis=1),
        "complement_std": rest.std(axis=1),
        "pooled_mean": both.mean(axis=1),
    }
    for name, numbers in expected.items():
        np.testing.assert_allclose(getattr(ranges, name), numbers, rtol=1e-10, atol=1e-12, err_msg=name)


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
    for name, share in zip(PARTS, recount(ours, "b", control), strict=True):
        np.testing.assert_allclose(getattr(control, name), share, atol=1e-12, err_msg=name)
    if gate == "agreement":
        alone = fit_ranges(ours, "b", saliency="random", top=0.3, kind=kind, tau=2.0, gate=gate)
        assert len(control.agreement.inside) == 12
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
    for name, share in zip(PARTS, recount(ours, "b", control), strict=True):
        np.testing.assert_allclose(getattr(control, name), share, atol=1e-12, err_msg=name)


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
                "tuned": {"ranges": ["gaussian"], "tau": [2.5], "top": [0.5], "gate": [gate]},
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


def test_other_concept_is_a_derangement_of_any_number_of_concepts():
    ours = statistics()
    template = fit_ranges(ours, "a", top=0.5)
    for count in (2, 3, 7):
        names = [f"{i}" for i in range(count)]
        all_ = {name: dataclasses.replace(template, concept=name, mean=np.full(6, i)) for i, name in enumerate(names)}
        known = {(name, module._label(part)): part for name, part in all_.items()}
        donors = [int(other_concept(all_[name], names, known).mean[0]) for name in names]
        assert sorted(donors) == list(range(count))
        assert all(donor != i for i, donor in enumerate(donors))


SWEEP = {
    "fit": {"saliency": ["mean_abs", "separation"]},
    "interventions": {
        "ranges": list(KINDS),
        "tau": [1.0, 2.0],
        "threshold": [1.0, 3.0],
        "top": [0.2, 0.5],
        "tuned": {"ranges": list(KINDS), "gate": list(GATES), "top": [0.3], "saliency": ["d_prime", "random"]},
    },
}


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("asked", [SWEEP, {}, {"interventions": {"controls": [], "tuned": None}}])
def test_ranges_come_back_from_their_table(tmp_path, asked, with_tokens):
    """Every kind, gate and control, with empty intervals, unknown doses and bounds in float32."""
    found = sweep_ranges(statistics(per=40, with_tokens=with_tokens), Config.model_validate(asked))
    write_table(tmp_path / "ranges.parquet", ranges_table(found))
    back = read_ranges(tmp_path / "ranges.parquet")
    assert len(back) == len(found)
    assert all(same(one, two) for one, two in zip(found, back, strict=True))
    if asked is SWEEP:
        assert {part.kind for part in back} == {*KINDS, "random_neurons", "random_ranges", "other_concept"}
        assert {part.label for part in back} >= {"discriminative+agreement", "random_neurons+agreement", "full"}
        assert max(part.lower.shape[1] for part in back) > 1


def test_nulls_and_never_nan_stand_in_the_table():
    table = ranges_table(sweep_ranges(statistics(with_tokens=False), Config.model_validate(SWEEP)))
    for field in table.schema:
        if str(field.type) in ("double", "float"):
            assert not np.isnan(table[field.name].drop_null().to_numpy()).any(), field.name
    gated = np.array(table["gate"].to_pylist()) == "agreement"
    for name in ("evidence_inside", "evidence_outside", "gate_threshold"):
        np.testing.assert_array_equal([value is not None for value in table[name].to_pylist()], gated)


def test_a_sweep_has_each_method_of_each_concept_once():
    found = sweep_ranges(statistics(neurons=20, per=40), Config())
    names = ("concept", "role", "saliency", "top", "kind", "base", "tau", "threshold", "gate")
    keys = [tuple(getattr(part, name) for name in names) for part in found]
    assert len(set(keys)) == len(keys)
    kinds = [(part.role, part.kind) for part in found]
    # per concept, 2 shares and 2 rankings: 2 taus and the whole neuron
    assert kinds.count(("sweep", "gaussian")) == 3 * 2 * 2 * 2
    assert kinds.count(("sweep", "full")) == 3 * 2 * 2
    # random neurons do not depend on the ranking
    assert kinds.count(("sweep", "random_neurons")) == 3 * 2 * 3
    # nor is there another place for a range that is everywhere
    assert kinds.count(("sweep", "random_ranges")) == 3 * 2 * 2 * 2
    assert kinds.count(("sweep", "other_concept")) == 3 * 2 * 2 * 3
    # per concept: 2 shares of gaussian and discriminative ranges
    for kind in ("random_neurons", "random_ranges", "other_concept"):
        assert kinds.count(("tuned", kind)) == 3 * 2 * 2


def test_whole_neurons_have_no_gate():
    config = Config.model_validate({"interventions": {"tuned": {"ranges": ["full"], "gate": ["none", "agreement"]}}})
    whole = [part for part in sweep_ranges(statistics(), config) if part.kind == "full"]
    assert {part.gate for part in whole} == {"none"}


def test_the_same_seed_gives_the_same_ranges_and_another_one_other_lots():
    config = Config.model_validate(SWEEP)
    one, two, other = (sweep_ranges(statistics(per=40, draws=draws), config) for draws in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    differ = {a.kind for a, b in zip(one, other, strict=True) if a.saliency != "random" and not same(a, b)}
    assert differ == {"random_ranges"}
    assert any(not same(a, b) for a, b in zip(one, other, strict=True) if a.saliency == "random")
